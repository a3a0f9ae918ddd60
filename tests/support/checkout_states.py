"""Repositories in every state that a git work tree can be in. Each builder gets a repository with a commit, see
:func:`base`, and brings it into its state."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from support.checkout_kit import commit, git

Builder = Callable[[Path], None]

STATES: dict[str, Builder] = {}

ODD_NAMES = (
    b"new\nline",
    b'quo"te',
    b"back\\slash",
    b"-rf",
    b"--help",
    b"tab\there",
    b"not-utf8-\xff\xfe",
    b"n\xc3\xa4h",
    b"na\xcc\x88h",
    b"colon:name",
    b":(top)magic",
    b"*",
    b"?[a]",
    b" leading",
    b"trailing ",
    b"trailing.",
    b"manifest.json",
    b"files/x",
    b"index/0",
    b"deleted/0",
    b"#hash",
    b"!bang",
    b"~",
    b"\x01\x7f",
    b"x" * 255,
    b"long/" + b"/".join([b"d" * 100] * 15) + b"/end",
    b"HEAD",
    b"Case",
    b"case",
)


def state(builder: Builder) -> Builder:
    """Register a state under its function's name."""
    STATES[builder.__name__] = builder
    return builder


def base(root: Path, object_format: str = "sha1") -> Path:
    """A repository with a few files, links, an executable and something ignored, committed."""
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main", f"--object-format={object_format}")
    write(root, ".gitignore", "ignored/\n*.o\n.env\n")
    for name in ("a", "b", "c", "dir/x", "dir/y", "dir/sub/z", "empty"):
        write(root, name, "" if name == "empty" else f"{name}\n" * 3)
    write(root, "tool.sh", "#!/bin/sh\n")
    (root / "tool.sh").chmod(0o755)
    (root / "link").symlink_to("a")
    (root / "dirlink").symlink_to("dir")
    commit(root, "first")
    write(root, "ignored/secret", "secret")
    write(root, ".env", "TOKEN=1")
    return root


def write(root: Path, name: str | bytes, text: str | bytes) -> None:
    """A file with its directories."""
    path = os.path.join(os.fsencode(root), os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)
    with open(path, "wb") as file:
        file.write(os.fsencode(text))


@state
def clean(root: Path) -> None:
    pass


@state
def changed(root: Path) -> None:
    write(root, "a", "changed")
    write(root, "dir/x", "dir/y\ndir/y\ndir/y\n")


@state
def same_size_and_time(root: Path) -> None:
    found = os.stat(root / "a")
    write(root, "a", "b\n" * 3)
    os.utime(root / "a", ns=(found.st_atime_ns, found.st_mtime_ns))


@state
def touched(root: Path) -> None:
    os.utime(root / "a", (1, 1))


@state
def racy(root: Path) -> None:
    write(root, "a", "x\n" * 3)
    git(root, "add", "a")
    write(root, "a", "y\n" * 3)
    os.utime(root / "a", ns=(os.stat(root / ".git/index").st_mtime_ns,) * 2)


@state
def untracked(root: Path) -> None:
    write(root, "new", "new")
    write(root, "newdir/deep/er", "new")
    write(root, "dir/new", "new")
    (root / "empty-directory").mkdir()


@state
def staged(root: Path) -> None:
    write(root, "a", "staged")
    write(root, "new", "staged")
    git(root, "add", "a", "new")


@state
def staged_then_changed(root: Path) -> None:
    staged(root)
    write(root, "a", "changed after")
    write(root, "new", "changed after")


@state
def staged_then_back(root: Path) -> None:
    before = (root / "a").read_bytes()
    staged(root)
    write(root, "a", before)


@state
def staged_then_deleted(root: Path) -> None:
    staged(root)
    (root / "a").unlink()
    (root / "new").unlink()


@state
def deleted(root: Path) -> None:
    (root / "a").unlink()
    shutil.rmtree(root / "dir")


@state
def removed(root: Path) -> None:
    git(root, "rm", "-q", "-r", "a", "dir")


@state
def removed_then_there(root: Path) -> None:
    git(root, "rm", "-q", "--cached", "a", "b")
    write(root, "b", "other")


@state
def removed_and_ignored(root: Path) -> None:
    git(root, "rm", "-q", "--cached", "a")
    write(root, ".gitignore", "ignored/\n.env\n/a\n")


@state
def renamed(root: Path) -> None:
    git(root, "mv", "a", "z")
    git(root, "mv", "dir", "other")


@state
def modes(root: Path) -> None:
    (root / "a").chmod(0o755)
    (root / "tool.sh").chmod(0o644)
    write(root, "script", "#!/bin/sh\n")
    (root / "script").chmod(0o700)


@state
def mode_staged(root: Path) -> None:
    git(root, "update-index", "--chmod=+x", "a")
    git(root, "update-index", "--chmod=-x", "tool.sh")


@state
def file_to_directory(root: Path) -> None:
    (root / "a").unlink()
    write(root, "a/inner", "x")
    (root / "link").unlink()
    write(root, "link/inner", "x")
    (root / "b").unlink()
    (root / "b").mkdir()


@state
def file_to_directory_staged(root: Path) -> None:
    file_to_directory(root)
    git(root, "add", "-A")


@state
def directory_to_file(root: Path) -> None:
    shutil.rmtree(root / "dir")
    write(root, "dir", "now a file")


@state
def directory_to_file_staged(root: Path) -> None:
    directory_to_file(root)
    git(root, "add", "-A")
    write(root, "dir", "and changed")


@state
def directory_to_link(root: Path) -> None:
    shutil.move(root / "dir", root / "elsewhere")
    (root / "dir").symlink_to("elsewhere")


@state
def directory_to_link_outside(root: Path) -> None:
    outside = root.parent / f"{root.name}-outside"
    shutil.move(root / "dir", outside)
    (root / "dir").symlink_to(outside)


@state
def directory_to_link_staged(root: Path) -> None:
    directory_to_link(root)
    git(root, "add", "-A")


@state
def file_to_link_and_back(root: Path) -> None:
    (root / "a").unlink()
    (root / "a").symlink_to("b")
    (root / "link").unlink()
    write(root, "link", "a file")
    (root / "dirlink").unlink()
    (root / "dirlink").symlink_to("nowhere")


@state
def links_of_every_kind(root: Path) -> None:
    for name, target in {
        "absolute": "/etc/passwd",
        "up": "../../../../etc",
        "dangling": "no/such/file",
        "loop": "loop",
        "loop1": "loop2",
        "loop2": "loop1",
        "to-dir": "dir",
        "to-top": ".",
        "long": "x" * 1000,
        "through": "to-dir/../to-dir/x",
        "into-git": ".git/config",
        "odd": "new\nline \udcff",
    }.items():
        (root / name).symlink_to(target)
    write(root, "sub/file", "x")
    (root / "sub/up").symlink_to("../dir/x")
    git(root, "add", "absolute", "loop", "odd")


@state
def odd_names_untracked(root: Path) -> None:
    for name in ODD_NAMES:
        write(root, name, name)


@state
def odd_names_tracked(root: Path) -> None:
    odd_names_untracked(root)
    commit(root)


@state
def odd_names_changed(root: Path) -> None:
    odd_names_tracked(root)
    for number, name in enumerate(ODD_NAMES):
        path = os.path.join(os.fsencode(root), name)
        if number % 3 == 0:
            os.unlink(path)
        elif number % 3 == 1:
            write(root, name, "changed")
        else:
            git(root, "--literal-pathspecs", "rm", "-q", "--cached", "--", name)
