"""`pilot pipeline run` sends the work tree in front of it, and leaves nothing behind where it cannot."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilothouse.cli.checkout import interrupt
from pilothouse.cli.checkout.git import Git
from support import nursery
from support.checkout_kit import commit, git
from support.checkout_server import PROJECT, RUN, SPEC, Server, serving
from support.checkout_states import base, write
from support.terminal import Terminal
from support.waiting import PATIENCE, eventually


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with serving(made):
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = base(tmp_path / "repo")
    write(found, ".pilot.yaml", SPEC)
    commit(found)
    return found


Pilot = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PILOT_", "GIT_"))} | {
        "PILOT_CONFIG_HOME": str(tmp_path / "config"),
        "PILOT_TOKEN": "t",
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }


@pytest.fixture
def pilot(server: Server, environment: dict[str, str]) -> Pilot:
    """``pilot pipeline run --detach`` in a directory."""

    def run(directory: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ("pipeline", "run", "--detach", *arguments)
        env = environment | {"PILOT_SERVER": server.url} | more
        return nursery.pilot(words, cwd=directory, env=env, timeout=2 * PATIENCE)

    return run


def test_a_work_tree_is_sent(root: Path, server: Server, pilot: Pilot) -> None:
    git(root, "remote", "add", "origin", "https://me:hush@git.example/team/shop.git")
    git(root, "tag", "v1")
    write(root, "a", "changed")
    done = pilot(root / "dir")
    assert (done.returncode, done.stdout.strip()) == (0, RUN), done.stderr
    assert "sending 1 changed file and " in done.stderr
    head = git(root, "rev-parse", "HEAD").decode().strip()
    assert server.trigger["repositories"] == [
        {"key": "https://git.example/team/shop", "commit": head, "depth": 1, "packs": ["blob1"]}
    ]
    expected = {"branch": "main", "commitSha": head, "tag": "v1", "dirty": True, "checkout": "blob2"}
    assert {name: server.trigger[name] for name in expected} == expected
    pack, archive = server.sent("/blobs")
    assert pack.startswith(b"PACK")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["manifest.json", "files/a"]
    assert not any(b"hush" in body or "hush" in path for _, path, body in server.seen)


def test_what_the_server_knows_is_not_sent(root: Path, server: Server, pilot: Pilot) -> None:
    head = git(root, "rev-parse", "HEAD").decode().strip()
    packs = [{"id": "kept", "sha256": "0" * 64, "size": 7}]
    server.known = [{"commit": head, "depth": 1, "packs": packs}]
    done = pilot(root)
    assert done.returncode == 0, done.stderr
    assert "sending 0 changed files and no new objects of" in done.stderr
    assert len(server.sent("/blobs")) == 1
    assert server.trigger["repositories"][0]["packs"] == ["kept"]
    assert "dirty" not in server.trigger


def test_slow_packing_is_reported(root: Path, server: Server, pilot: Pilot) -> None:
    server.slowly = threading.Event()
    server.pause = 2.5
    done = pilot(root)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"packing the files of {root} …\n"), done.stderr


def test_a_plain_directory_is_sent(tmp_path: Path, server: Server, pilot: Pilot) -> None:
    write(tmp_path / "plain", ".pilot.yaml", SPEC)
    done = pilot(tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert not {"repositories", "dirty", "tag"} & server.trigger.keys()
    assert server.trigger["checkout"] == "blob1"


def test_a_spec_elsewhere_is_only_read(root: Path, tmp_path: Path, server: Server, pilot: Pilot) -> None:
    write(tmp_path / "elsewhere", "y.yaml", SPEC + "checkout: {depth: 0}\n")
    done = pilot(root / "dir", "-f", "../../elsewhere/y.yaml")
    assert done.returncode == 0, done.stderr
    assert server.trigger["repositories"][0]["commit"] == git(root, "rev-parse", "HEAD").decode().strip()
    assert server.trigger["repositories"][0]["depth"] == 0, "its options count"
    assert f"of {root} " in done.stderr


def test_what_a_run_lacks_is_asked_once_before_anything_else(
    root: Path, server: Server, pilot: Pilot
) -> None:
    done = pilot(root, "--var", "tag=1.5", "--var", "tag=1.6")
    assert done.returncode == 0, done.stderr
    [asked] = server.sent("/validate")
    expected = {"spec": SPEC, "fileName": ".pilot.yaml", "variables": {"tag": "1.6"}, "projectId": PROJECT}
    assert json.loads(asked) == expected
    assert server.trigger["variables"] == {"tag": "1.6"}
    server.seen.clear()
    server.lacking = True
    done = pilot(root)
    assert done.returncode == 2
    assert done.stderr == ".pilot.yaml:2:1: error: it lacks something\nerror: 1 problem in .pilot.yaml\n"
    assert [path.partition("?")[0] for _, path, _ in server.seen] == [
        "/api/v1/projects",
        "/api/v1/pipelines/spec/validate",
    ]


@pytest.mark.parametrize("how", ["auto", "dumb", "plain", "json", "detached json"])
def test_the_progress_of_an_upload(
    root: Path, tmp_path: Path, server: Server, environment: dict[str, str], how: str
) -> None:
    # The kernel's buffers take some 4 MiB at once: only what is sent after that has progress to be seen.
    write(root, "large", os.urandom((16 if how == "auto" else 6) << 20))
    server.slowly = threading.Event()
    server.pause = 1.0 if how == "auto" else 0.0
    detach = ("--detach",) if how != "json" else ()
    progress = {"auto": "auto", "dumb": "auto", "plain": "plain"}.get(how, "json")
    command = (sys.executable, "-m", "pilothouse", "pipeline", "run", *detach, "--progress", progress)
    env = {**environment, "PILOT_SERVER": server.url, "TERM": "dumb" if how == "dumb" else "xterm"}
    terminal = Terminal(command, str(root), env, 50, 24)
    try:
        if how == "auto":
            terminal.until(
                lambda seen: any(re.match(r"sent [\d.]+ MiB of 16\.\d MiB \(\d+%\), ", r) for r in seen)
            )
            server.slowly.set()
        elif how == "json":
            terminal.until('"checkout.upload"')
            server.slowly.set()
            terminal.until('"total":')
        code = terminal.ended()
    finally:
        terminal.close()
    shown = terminal.screen.all.splitlines()
    assert terminal.screen.unknown == []
    if how == "json":
        text = "".join(terminal.screen.all.split())
        assert re.search(r'"data":\{"sent":0,"total":(\d+)\}.*"data":\{"sent":\1,"total":\1\}', text), shown
        return
    assert code == 0, shown
    assert shown[-1].strip() == "" or RUN in shown[-1]
    assert any(line == RUN for line in shown)
    assert not any(re.search(r"sent .* of ", line) for line in shown), "gone at the end"
    assert not any("{" in line for line in shown), "stdout has the run's id alone"
    if how != "auto":
        assert any(re.fullmatch(r"sent 6\.\d MiB in [\d.]+s", line) for line in shown)


def test_no_checkout(root: Path, server: Server, pilot: Pilot) -> None:
    done = pilot(root, "--no-checkout")
    assert done.returncode == 0, done.stderr
    assert server.trigger["checkout"] == ""
    assert server.trigger["branch"] == "main"
    assert not server.sent("/blobs")


@pytest.mark.parametrize("why", ["too large", "no git", "damaged", "unreadable submodule"])
def test_nothing_is_created_where_the_work_tree_cannot_be_sent(
    root: Path, tmp_path: Path, server: Server, pilot: Pilot, why: str
) -> None:
    environment = {}
    if why == "too large":
        write(root, "large", os.urandom(1 << 16))
        environment["PILOT_MAX_CHECKOUT"] = "10k"
    elif why == "no git":
        environment["PATH"] = str(tmp_path)
    elif why == "damaged":
        (root / ".git/index").write_bytes(b"none")
    else:
        write(root, ".pilot.yaml", SPEC + "checkout: {submodules: true}\n")
        base(root / "inner")
        git(root, "add", "-A")
        (root / "inner/.git/HEAD").write_text("nonsense\n")
    done = pilot(root, **environment)
    assert done.returncode == 1, done
    said = {
        "too large": "is over 10.0 KiB packed; its largest files: large (64.0 KiB)",
        "no git": "is a git work tree, but there is no git in PATH",
        "damaged": "git: fatal: .git/index: index file smaller than expected",
        "unreadable submodule": "inner/.git, but git does not take it for a repository",
    }[why]
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    created = [path for method, path, _ in server.seen if method != "GET" and not path.endswith("/validate")]
    assert created == []


def test_a_refused_upload_starts_nothing(root: Path, server: Server, pilot: Pilot) -> None:
    server.refused = "/blobs"
    done = pilot(root)
    assert done.returncode != 0
    assert "too large" in done.stderr
    assert not server.sent("/trigger")


def test_omitted_files_are_reported(root: Path, tmp_path: Path, server: Server, pilot: Pilot) -> None:
    git(root, "submodule", "add", "-q", str(base(tmp_path / "library")), "lib\x1b[31m")
    done = pilot(root)
    assert done.returncode == 0, done.stderr
    assert "1 submodule (lib) left out: `checkout: {submodules: true}` in the spec sends them" in done.stderr
    assert "\x1b" not in done.stderr


async def test_a_cancelled_call_of_git_ends(root: Path) -> None:
    """As after Ctrl-C: git, and what it started, is killed, and the thread does not go on."""
    pids: list[int] = []
    after = threading.Event()
    original = interrupt.began

    def began(process: subprocess.Popen[bytes]) -> None:
        pids.append(process.pid)
        original(process)

    def work() -> None:
        git_ = Git(root)
        try:
            git_.answer("-c", "alias.wait=!sleep 600", "wait")
            git_.answer("version")
        finally:
            after.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interrupt, "began", began)
        task = asyncio.create_task(interrupt.in_thread(work))
        await eventually(lambda: bool(pids))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(after.wait, PATIENCE)
    assert len(pids) == 1, "the second call of git did not begin"
