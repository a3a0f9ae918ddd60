"""What an agent keeps of repositories: fetched once, whole after a kill, bounded, and no obstacle to a cancel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent.objects import MAX_PACKS
from support.layouts import (
    KEY,
    Checkout,
    Desk,
    checkout_of,
    commit,
    contents,
    git,
    head,
    new_repository,
    pack_of,
    write,
)
from support.waiting import eventually, slowness


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "source", {"README": "hello\n", "d/one": "1\n"})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def cached(desk: Desk) -> Path:
    [found] = (desk.root / "objects").glob("[0-9a-f]*")
    return found


async def test_a_pack_is_fetched_once_however_many_need_it_at_a_time(desk: Desk, source: Path) -> None:
    made = checkout_of(source)
    [name] = made.packs
    there = await asyncio.gather(*(desk.lay_out(made, f"ws{number}") for number in range(5)))
    assert desk.fetcher.fetched.count(name) == 1
    assert all(contents(one) == contents(source) for one in there)


async def test_only_what_is_new_is_fetched(desk: Desk, source: Path) -> None:
    made = checkout_of(source)
    await desk.lay_out(made)
    first = head(source)
    write(source / "README", "changed\n")
    commit(source)
    more = Checkout(packs=dict(made.packs))
    new = more.add_pack(pack_of(source, "HEAD", first))
    described = {**made.manifest["repositories"][0], "commit": head(source), "shallow": [head(source)]}
    more.manifest["repositories"].append({**described, "packs": list(more.packs)})
    desk.fetcher.fetched.clear()
    there = await desk.lay_out(more)
    assert len(desk.fetcher.fetched) == 2
    assert desk.fetcher.fetched[1] == new
    assert contents(there) == contents(source)
    assert git(there, "fsck", "--no-dangling") == ""


async def test_a_pack_that_was_written_to_is_fetched_again(desk: Desk, source: Path) -> None:
    """A step may reach the cache's own bytes by the hard link in its workspace."""
    made = checkout_of(source)
    [name] = made.packs
    there = await desk.lay_out(made)
    [pack] = (there / ".git/objects/pack").glob("*.pack")
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.write(b"rubbish")
    again = await desk.lay_out(made, "again")
    assert desk.fetcher.fetched.count(name) == 2
    assert git(again, "fsck", "--no-dangling") == ""


async def test_repositories_do_not_see_each_others_objects(desk: Desk, source: Path) -> None:
    """Knowing the id of another project's commit and pack is not enough to get it."""
    made = checkout_of(source)
    await desk.lay_out(made)
    message = made.message(desk.fetcher, "another repository")
    desk.fetcher.blobs.pop(next(iter(made.packs)))  # its server would not give it
    with pytest.raises(Exception, match="404"):
        await desk.obey(message)


async def test_what_is_over_the_limit_goes_and_what_is_used_stays(tmp_path: Path, source: Path) -> None:
    write(source / "big", os.urandom(300_000))
    commit(source)
    desk = Desk(tmp_path, cache=1_500_000)
    made = checkout_of(source)
    for number in range(4):
        await desk.lay_out(made, f"ws{number}", f"repository {number}")
        await desk.layout.clean()
    assert len(list((desk.root / "objects").iterdir())) == 2
    assert desk.objects is not None
    desk.objects._limit = 1
    async with desk.objects.use("repository 3", "sha1"):
        await desk.layout.clean()
        assert len(list((desk.root / "objects").iterdir())) == 1
    await desk.layout.clean()
    assert list((desk.root / "objects").iterdir()) == []
    assert contents(await desk.lay_out(made, "ws", "repository 3")) == contents(source)


async def test_old_packs_of_a_repository_go(desk: Desk, source: Path) -> None:
    made = checkout_of(source)
    await desk.lay_out(made)
    marks = cached(desk) / "packs"
    for number in range(MAX_PACKS + 5):
        (marks / f"{number:064x}").write_text("[]")
        os.utime(marks / f"{number:064x}", (1, 1))
    await desk.lay_out(made)
    assert len(list(marks.iterdir())) == MAX_PACKS
    assert (marks / next(iter(made.packs))).exists()


async def test_a_full_disk_has_no_pristine_tree(
    desk: Desk, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pilothouse.agent import objects

    await desk.lay_out(checkout_of(source), "before")
    monkeypatch.setattr(objects, "FREE", 1 << 60)
    write(source / "README", "changed\n")
    (source / "link").symlink_to("README")
    commit(source)
    write(source / "d/one", "changed, too\n")
    made = checkout_of(source)
    made.add("skip-worktree/0", b"README\0")
    there = await desk.lay_out(made)
    assert not (cached(desk) / "tree").exists()
    assert not (there / "README").exists()
    (source / "README").unlink()
    assert contents(there) == contents(source)
    assert git(there, "status", "--porcelain") == " M d/one\n"


LEFTOVERS = {
    "repo.git/objects/pack/tmp_pack_x": "half a pack",
    "repo.git/objects/pack/pack-0.pack": "a pack without an index",
    "incoming/pack-1.pack": "half a pack",
    "incoming/list-2": "half a list",
    "tree.index.lock": "",
    "tree.half": "{",
    "tree/stray": "of a commit that was never finished",
    "packs/3.half": "[",
    "copy/stray": "half copied",
    "copy.index": "half an index",
    "taken-1/stray": "on its way to a workspace",
    "taken-1.index": "and its index",
    "taken-2.index": "and another's",
}


async def test_what_a_killed_agent_has_left_breaks_nothing(tmp_path: Path, source: Path) -> None:
    desk = Desk(tmp_path)
    await desk.lay_out(checkout_of(source))
    for name, text in LEFTOVERS.items():
        write(cached(desk) / name, text)
    (cached(desk) / "tree.json").unlink()
    (desk.root / "objects" / ".trash-1").mkdir()
    reborn = Desk(tmp_path)
    write(source / "README", "changed\n")
    commit(source)
    there = await reborn.lay_out(checkout_of(source), "after")
    assert contents(there) == contents(source)
    assert list((cached(desk) / "incoming").iterdir()) == []
    assert [path.name for path in cached(desk).iterdir() if path.name.startswith(("copy", "taken"))] == []
    await reborn.layout.clean()
    assert [path.name for path in (desk.root / "objects").iterdir() if path.name.startswith(".")] == []


SLOW_GIT = """#!/bin/sh
# git, but one of its commands takes its time
for word in "$@"; do
  if [ "$word" = "$SLOW" ]; then touch "$MARK"; sleep 600 & wait; fi
done
exec git "$@"
"""


def slowed(desk: Desk, directory: Path, command: str) -> Path:
    """Make git hang in that command; returns the file that signals it."""
    script, mark = directory / "slow-git", directory / f"mark-{command}"
    text = SLOW_GIT.replace("$SLOW", command).replace("$MARK", str(mark))
    script.write_text(text)
    script.chmod(0o755)
    assert desk.git is not None
    desk.git._program = str(script)
    return mark


def alive(directory: Path) -> list[str]:
    """The processes whose command line has the directory in it."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in line and int(name) != os.getpid():
            found.append(line.decode("utf-8", "replace"))
    return found


@pytest.mark.parametrize("command", ["index-pack", "ls-tree", "read-tree", "update-index"])
async def test_a_cancel_ends_it_whatever_git_is_doing(
    desk: Desk, source: Path, tmp_path: Path, command: str
) -> None:
    write(source / "README", "changed\n")
    made = checkout_of(source)
    assert desk.git is not None
    program = desk.git._program
    mark = slowed(desk, tmp_path, command)
    working = asyncio.ensure_future(desk.lay_out(made))
    await eventually(mark.exists)
    began = time.monotonic()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert time.monotonic() - began < 20 * slowness()
    await eventually(lambda: not alive(tmp_path / "slow-git"))
    assert [path.name for path in (desk.root / "work").iterdir()] == [".git"]
    desk.git._program = program
    there = await desk.lay_out(made)
    assert contents(there) == contents(source)


async def test_a_cancel_ends_the_child_that_unpacks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pilothouse.agent import layout

    mark = tmp_path / "up"
    monkeypatch.setattr(layout, "script", lambda _: ["sh", "-c", f"touch {mark}; sleep 600 & sleep 600"])
    working = asyncio.ensure_future(desk.lay_out(Checkout()))
    await eventually(mark.exists)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await eventually(lambda: not alive(mark))


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.layouts import *

async def main():
    desk = Desk(Path(sys.argv[1]))
    print("ready", flush=True)
    while True:
        await desk.lay_out(checkout_of(Path(sys.argv[2])))

asyncio.run(main())
"""


async def test_kill_9_at_any_moment_breaks_nothing(tmp_path: Path, source: Path) -> None:
    """Lives end after longer and longer times, wherever they are; each begins with what the last has left."""
    tests = str(Path(__file__).parents[1])
    for number in range(20):
        write(source / f"file{number}", os.urandom(200_000))
    commit(source)
    for number in range(6):
        write(source / "file1", os.urandom(100_000))
        commit(source)
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED.format(tests=tests), str(tmp_path), str(source)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert child.stdout is not None
        with child.stdout as said:
            assert await asyncio.to_thread(said.readline) == b"ready\n"
        await asyncio.sleep(0.15 * (number + 1))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        await eventually(lambda: not alive(tmp_path / "agent"))
    desk = Desk(tmp_path)
    await desk.workspaces.discard_leftovers(desk.workspaces.leftovers())
    there = await desk.lay_out(checkout_of(source), "after")
    assert contents(there) == contents(source)
    assert git(there, "fsck", "--no-dangling") == ""
    assert git(there, "status", "--porcelain") == ""


async def test_the_state_of_the_tree_names_the_commit(desk: Desk, source: Path) -> None:
    await desk.lay_out(checkout_of(source))
    told: dict[str, Any] = json.loads((cached(desk) / "tree.json").read_text())
    assert told["commit"] == head(source)
    assert told["bytes"] == len("hello\n1\n")
    assert KEY not in str(cached(desk)), "a repository's key is no file name"


async def test_a_repository_is_recovered_once_before_use(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery removes incomplete fetches: it must not run during a fetch."""
    from pilothouse.agent import objects

    recover, recovered, cache = objects._recover, [], desk.objects
    assert cache is not None

    def counting(directory: Path, object_format: str) -> None:
        recovered.append(directory)
        recover(directory, object_format)

    async def use() -> None:
        async with cache.use(KEY, "sha1"):
            assert len(recovered) == 1

    monkeypatch.setattr(objects, "_recover", counting)
    await asyncio.gather(*(use() for _ in range(5)))
