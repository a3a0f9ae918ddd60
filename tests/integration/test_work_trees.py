"""Work trees as an agent lays them out, compared with those of their author by real git."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pilothouse.agent import objects
from support.layouts import (
    Checkout,
    Desk,
    checkout_of,
    commit,
    contents,
    git,
    head,
    new_repository,
    pack,
    state,
    write,
)

FILES: dict[str, str | bytes] = {
    "README": "hello\n",
    "bin/run": "#!/bin/sh\n",
    "src/main.py": "print(1)\n",
    "src/deep/er/x": "x\n",
    "d/one": "1\n",
    "d/two": "2\n",
    "empty": "",
    "binary": bytes(range(256)),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = new_repository(tmp_path / "source", FILES)
    (made / "bin/run").chmod(0o755)
    (made / "link").symlink_to("src/main.py")
    (made / "to-directory").symlink_to("src")
    commit(made)
    return made


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def same(desk: Desk, source: Path, name: str = "ws") -> Path:
    """Lay it out, and see that nothing differs."""
    there = await desk.lay_out(checkout_of(source), name)
    assert contents(there) == contents(source)
    assert state(there) == state(source)
    return there


async def test_a_clean_work_tree(desk: Desk, source: Path) -> None:
    there = await same(desk, source)
    assert git(there, "status", "--porcelain") == ""
    assert git(there, "log", "--format=%H").split() == [head(source)], "depth 1"
    assert git(there, "fsck", "--strict") == ""
    assert there.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(there / ".git")) == [
        *("HEAD", "config", "index", "info", "objects", "refs", "shallow"),
    ]


def modified(source: Path) -> None:
    write(source / "README", "changed\n")
    (source / "src/main.py").chmod(0o755)
    (source / "bin/run").chmod(0o644)


def untracked(source: Path) -> None:
    write(source / "new/file", "new\n")
    write(source / ".gitignore", "ignored\n")
    (source / "new/empty").mkdir()
    (source / "new/dangling").symlink_to("nowhere/at/all")
    (source / "new/absolute").symlink_to("/usr/bin/env")
    (source / "new/upward").symlink_to("../../../../../etc/passwd")
    (source / "new/loop").symlink_to("loop")


def staged(source: Path) -> None:
    write(source / "README", "staged\n")
    write(source / "added", "added\n")
    git(source, "add", "README", "added")
    write(source / "README", "and then changed\n")
    git(source, "rm", "-q", "--cached", "d/one")
    git(source, "rm", "-q", "d/two")
    git(source, "mv", "empty", "renamed")


def deleted(source: Path) -> None:
    (source / "README").unlink()
    for name in ("d/one", "d/two", "src/deep/er/x"):
        (source / name).unlink()
    for name in ("d", "src/deep/er", "src/deep"):
        (source / name).rmdir()
    (source / "link").unlink()


def link_to_directory(source: Path) -> None:
    (source / "to-directory").unlink()
    write(source / "to-directory/main.py", "not what the link led to\n")


def directory_to_link(source: Path) -> None:
    for name in ("d/one", "d/two"):
        (source / name).unlink()
    (source / "d").rmdir()
    (source / "d").symlink_to("src")


def directory_to_link_with_the_same_names(source: Path) -> None:
    (source / "d").rename(source / "elsewhere")
    (source / "d").symlink_to("elsewhere")


def file_to_directory(source: Path) -> None:
    (source / "README").unlink()
    write(source / "README/inside", "in\n")


def directory_to_file(source: Path) -> None:
    for name in ("one", "two"):
        (source / "d" / name).unlink()
    (source / "d").rmdir()
    write(source / "d", "a file now\n")


def file_to_link(source: Path) -> None:
    (source / "README").unlink()
    (source / "README").symlink_to("/etc/passwd")
    (source / "link").unlink()
    write(source / "link", "a file\n")


def staged_kinds(source: Path) -> None:
    directory_to_file(source)
    file_to_directory(source)
    link_to_directory(source)
    git(source, "add", "-A")


def conflicted(source: Path) -> None:
    git(source, "checkout", "-q", "-b", "other")
    write(source / "README", "theirs\n")
    write(source / "both", "theirs\n")
    (source / "d/one").unlink()
    commit(source)
    git(source, "checkout", "-q", "main")
    write(source / "README", "ours\n")
    write(source / "both", "ours\n")
    write(source / "d/one", "ours\n")
    commit(source)
    git(source, "merge", "other", check=False)
    assert "UU" in git(source, "status", "--porcelain")


def intended(source: Path) -> None:
    write(source / "intended", "to be added\n")
    write(source / "intended too", "to be added\n")
    write(source / ".gitignore", "intended too\n")
    git(source, "add", "-N", "-f", "intended", "intended too")


def detached(source: Path) -> None:
    git(source, "checkout", "-q", "--detach")
    write(source / "README", "changed\n")


def odd_names(source: Path) -> None:
    for name in (
        "with space",
        "ta\tb",
        "new\nline",
        'quo"te',
        "back\\slash",
        "-dash",
        "ünï",
        "a:b",
        "*?[",
        "~",
    ):
        write(source / name, name)
    write(source / os.fsdecode(b"not-utf8-\xff\xfe"), "bytes")
    write(source / ("long/" + "n" * 200) / ("m" * 200), "long")
    commit(source)
    write(source / "ta\tb", "changed")
    write(source / os.fsdecode(b"untracked-\xff"), "bytes")
    (source / "new\nline").unlink()


def branch_with_slashes(source: Path) -> None:
    git(source, "checkout", "-q", "-b", "feature/ünï/x.y")


def crlf(source: Path) -> None:
    write(source / ".gitattributes", "*.crlf text eol=crlf\n*.txt text=auto\n*.bin -text\n*.id ident\n")
    write(source / "a.crlf", b"one\r\ntwo\r\n")
    write(source / "a.txt", b"one\ntwo\n")
    write(source / "a.bin", b"one\r\ntwo\n")
    write(source / "a.id", b"$Id$\n")
    commit(source)
    git(source, "rm", "-q", "--cached", "a.id")
    git(source, "reset", "-q", "--hard")


def everything_gone(source: Path) -> None:
    git(source, "rm", "-q", "-r", ".")


STATES: list[Callable[[Path], None]] = [
    *(modified, untracked, staged, deleted, link_to_directory, directory_to_link, file_to_directory),
    *(directory_to_link_with_the_same_names, directory_to_file, file_to_link, staged_kinds, conflicted),
    *(intended, detached, odd_names, branch_with_slashes, crlf, everything_gone),
]


@pytest.mark.parametrize("change", STATES, ids=lambda change: change.__name__)
async def test_every_state(desk: Desk, source: Path, change: Callable[[Path], None]) -> None:
    change(source)
    await same(desk, source)
    await same(desk, source, "again")  # with the pristine tree of before


@pytest.mark.parametrize("change", STATES, ids=lambda change: change.__name__)
async def test_every_state_in_a_tree_that_was_made_ready_before(
    desk: Desk, source: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MIN_COPY_SIZE", 0)
    await desk.lay_out(checkout_of(source))
    [cached] = (desk.root / "objects").iterdir()
    for name in ("second", "third"):
        await desk.layout.afterwards()
        assert (cached / "copy.json").exists()
        change(source) if name == "second" else None
        there = await same(desk, source, name)
        assert not (cached / "copy").exists(), "it was moved, not copied"
        assert git(there, "fsck", "--no-dangling") == ""
    assert [path.name for path in cached.glob("taken-*")] == []


async def test_a_tree_made_ready_is_for_submodules_too(
    desk: Desk, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MIN_COPY_SIZE", 0)
    library = new_repository(tmp_path / "library", {"lib.c": "int x;\n"})
    git(source, "submodule", "--quiet", "add", str(library), "libs/x")
    commit(source)
    made = Checkout()
    made.repository(source)
    made.repository(source / "libs/x", "libs/x", name="libs/x")
    made.repository(library, "d", kind="nested")  # where the top has files
    for name in ("one", "two", "three"):
        there = await desk.lay_out(made, name)
        assert git(there, "status", "--porcelain", "libs") == ""
        assert git(there / "d", "status", "--porcelain") == "?? one\n?? two\n"
        await desk.layout.afterwards()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_a_tree_made_ready_belongs_to_the_user_that_runs_the_steps(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MIN_COPY_SIZE", 0)
    desk = Desk(tmp_path, owner=(65534, 65534))
    await desk.lay_out(checkout_of(source))
    await desk.layout.afterwards()
    write(source / "d/one", "changed\n")
    commit(source)
    there = await desk.lay_out(checkout_of(source), "second")
    packs = set((there / ".git/objects/pack").iterdir())
    assert {path.lstat().st_uid for path in (there, *there.rglob("*")) if path not in packs} == {65534}
    assert git(there, "-c", f"safe.directory={there}", "status", "--porcelain") == ""


async def test_one_commit_after_another(desk: Desk, source: Path) -> None:
    await same(desk, source)
    for number, change in enumerate((modified, directory_to_file, link_to_directory, file_to_directory)):
        git(source, "reset", "-q", "--hard")
        change(source)
        commit(source)
        await same(desk, source, f"ws{number}")
    git(source, "checkout", "-q", "HEAD~3")
    await same(desk, source, "back")


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
async def test_object_formats(desk: Desk, tmp_path: Path, object_format: str) -> None:
    source = new_repository(tmp_path / "formats", FILES, f"--object-format={object_format}")
    staged(source)
    there = await same(desk, source)
    assert git(there, "rev-parse", "--show-object-format").strip() == object_format
    write(there / "more")
    commit(there)


async def test_a_branch_without_a_commit(desk: Desk, tmp_path: Path) -> None:
    source = new_repository(tmp_path / "unborn")
    write(source / "staged", "1\n")
    git(source, "add", "staged")
    write(source / "untracked", "2\n")
    there = await same(desk, source)
    assert git(there, "status").startswith("On branch main\n\nNo commits yet")
    assert await same(desk, new_repository(tmp_path / "nothing"), "nothing")


async def test_no_git_work_tree(desk: Desk, tmp_path: Path) -> None:
    made = Checkout(manifest={"version": 1, "git": False, "repositories": []})
    made.add("files/a/b", b"x", 0o755)
    there = await desk.lay_out(made)
    assert contents(there) == {"a/b": (b"x", True)}
    assert not (there / ".git").exists()


@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_depth(desk: Desk, source: Path, depth: int) -> None:
    for number in range(4):
        write(source / "README", f"{number}\n")
        commit(source)
    there = await desk.lay_out(checkout_of(source, depth=depth))
    log = git(source, "log", "--format=%H").split()
    assert git(there, "log", "--format=%H").split() == log[: depth or None]
    assert git(there, "rev-parse", "--is-shallow-repository").strip() == str(bool(depth)).lower()
    assert git(there, "fsck") == ""
    deeper = await desk.lay_out(checkout_of(source, depth=3), "deeper")
    assert len(git(deeper, "log", "--format=%H").split()) == 3, "another depth of the same commit"


async def test_tags_and_origin(desk: Desk, source: Path) -> None:
    git(source, "tag", "v1")
    git(source, "tag", "-a", "-m", "second", "v2/x")
    made = Checkout()
    tags = {name: git(source, "rev-parse", name).strip() for name in ("v1", "v2/x")}
    made.repository(source, tags=tags, origin="https://me:secret@git.example/shop.git?token=1#x")
    made.add("pack/0", pack(source, tags["v2/x"]))
    there = await desk.lay_out(made)
    assert git(there, "tag", "--list").split() == ["v1", "v2/x"]
    assert git(there, "describe", "--tags", "--exact-match", "v2/x^{}").strip() in ("v1", "v2/x")
    assert git(there, "remote", "get-url", "origin").strip() == "https://git.example/shop.git"
    assert git(there, "config", "branch.main.remote").strip() == "origin"
    assert "secret" not in (there / ".git/config").read_text()


async def test_submodules_and_nested_repositories(desk: Desk, source: Path, tmp_path: Path) -> None:
    library = new_repository(tmp_path / "library", {"lib.c": "int x;\n", "sub/y": "y\n"})
    git(source, "submodule", "--quiet", "add", "--name", "the lib", str(library), "libs/x")
    git(source, "submodule", "--quiet", "add", str(library), "libs/untouched")
    commit(source)
    git(source, "submodule", "--quiet", "deinit", "-f", "libs/untouched")
    nested = new_repository(source / "nested", {"n": "n\n"})
    write(source / "libs/x/lib.c", "int changed;\n")
    write(source / "libs/x/untracked", "u\n")
    made = Checkout()
    made.repository(source)
    made.repository(source / "libs/x", "libs/x", name="the lib", origin="https://git.example/lib.git")
    made.repository(nested, "nested", kind="nested")
    there = await desk.lay_out(made)
    assert contents(there) == contents(source)
    for path in ("", "libs/x", "nested"):
        assert state(there / path) == state(source / path)
    assert (there / "libs/x/.git").is_dir()
    assert git(there, "submodule", "status").splitlines()[1][1:41] == head(source / "libs/x")
    git(there / "libs/x", "reset", "-q", "--hard")
    (there / "libs/x/untracked").unlink()
    assert git(there, "status", "--porcelain") == "?? nested/\n"
    assert git(there, "submodule", "foreach", "--quiet", "echo $name").strip() == "the lib"


async def test_a_submodule_at_another_commit(desk: Desk, source: Path, tmp_path: Path) -> None:
    library = new_repository(tmp_path / "library", {"lib.c": "int x;\n"})
    git(source, "submodule", "--quiet", "add", str(library), "lib")
    commit(source)
    write(source / "lib/lib.c", "int y;\n")
    commit(source / "lib")
    made = Checkout()
    made.repository(source)
    made.repository(source / "lib", "lib", name="lib")
    there = await desk.lay_out(made)
    assert state(there) == state(source)
    assert git(there, "status", "--porcelain") == " M lib\n"
    git(source, "add", "lib")
    made = Checkout()
    made.repository(source)
    made.repository(source / "lib", "lib", name="lib")
    there = await desk.lay_out(made)
    assert git(there, "status", "--porcelain") == "M  lib\n"


async def test_sparse_and_assumed(desk: Desk, source: Path) -> None:
    made = checkout_of(source)
    made.add("skip-worktree/0", b"d/one\0d/two\0src/main.py\0")
    made.add("assume-unchanged/0", b"README\0")
    made.add("files/src/main.py", b"present all the same\n")
    there = await desk.lay_out(made)
    assert not (there / "d").exists()
    assert (there / "src/main.py").read_text() == "present all the same\n"
    listed = git(there, "ls-files", "-v").splitlines()
    assert {"S d/one", "S d/two", "h README", "H bin/run"} <= set(listed)
    assert git(there, "status", "--porcelain") == ""


async def test_line_ends_as_the_author_has_them(desk: Desk, source: Path) -> None:
    git(source, "config", "core.autocrlf", "true")
    git(source, "rm", "-q", "--cached", "-r", ".")
    git(source, "reset", "-q", "--hard")
    assert (source / "README").read_bytes() == b"hello\r\n"
    for name in ("one", "two"):
        there = await desk.lay_out(checkout_of(source, autocrlf="true"), name)
        assert contents(there) == contents(source)
        assert git(there, "status", "--porcelain") == ""
    made = checkout_of(source, autocrlf="true")
    made.add("files/README", b"hello\n")  # other line ends, which mean nothing
    made.add("files/d/one", b"1\nmore\n")
    for name in ("other ends", "again"):
        there = await desk.lay_out(made, name.replace(" ", "-"))
        assert (there / "README").read_bytes() == b"hello\n"
        assert git(there, "status", "--porcelain") == " M d/one\n"
        await desk.layout.afterwards()
    there = await desk.lay_out(checkout_of(source), "unset")
    assert (there / "README").read_bytes() == b"hello\n"


async def test_the_index_is_believed_without_reading_a_file(desk: Desk, source: Path) -> None:
    """Were a file read again, git would see that it is not what the index says; its stat says nothing."""
    there = await desk.lay_out(checkout_of(source))
    there = await desk.lay_out(checkout_of(source), "second")
    listed = git(there, "ls-files", "--debug", "src/main.py")
    found = (there / "src/main.py").stat()
    assert f"ino: {found.st_ino & 0xFFFFFFFF}\n" in listed
    assert f"size: {found.st_size}" in listed
    assert f"mtime: {found.st_mtime_ns // 10**9}:{found.st_mtime_ns % 10**9}" in listed
    assert f"ctime: {found.st_ctime_ns // 10**9}:{found.st_ctime_ns % 10**9}" in listed


async def test_workspaces_are_whole_without_the_cache(desk: Desk, source: Path) -> None:
    there = await desk.lay_out(checkout_of(source))
    other = await desk.lay_out(checkout_of(source), "other")
    write(other / "README", "only here\n")
    assert (there / "README").read_text() == "hello\n"
    (desk.root / "objects").rename(desk.root / "gone")
    assert git(there, "fsck", "--full") == ""
    git(there, "repack", "-q", "-a", "-d", "-f")
    assert git(there, "status", "--porcelain") == ""
