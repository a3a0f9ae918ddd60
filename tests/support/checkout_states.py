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


@state
def unborn(root: Path) -> None:
    git(root, "checkout", "-q", "--orphan", "other")


@state
def unborn_and_empty(root: Path) -> None:
    git(root, "checkout", "-q", "--orphan", "other")
    git(root, "rm", "-q", "-r", "--cached", ".")


@state
def detached(root: Path) -> None:
    write(root, "a", "second")
    commit(root)
    git(root, "checkout", "-q", "HEAD~1")


@state
def branch_of_odd_name(root: Path) -> None:
    git(root, "checkout", "-q", "-b", "feature/ünï-#1")


def _diverged(root: Path) -> None:
    git(root, "checkout", "-q", "-b", "side")
    write(root, "a", "theirs")
    write(root, "both", "theirs")
    (root / "b").unlink()
    write(root, "dir/x", "theirs")
    commit(root, "side")
    git(root, "checkout", "-q", "main")
    write(root, "a", "ours")
    write(root, "both", "ours")
    write(root, "b", "ours")
    git(root, "rm", "-q", "dir/x")
    commit(root, "main")


@state
def merge_conflict(root: Path) -> None:
    _diverged(root)
    git(root, "merge", "side", ok=False)


@state
def merge_conflict_worked_on(root: Path) -> None:
    merge_conflict(root)
    write(root, "a", "both")
    (root / "both").unlink()
    git(root, "add", "a")


@state
def conflict_between_directory_and_file(root: Path) -> None:
    git(root, "checkout", "-q", "-b", "side")
    git(root, "rm", "-q", "a")
    write(root, "a/inner", "x")
    commit(root, "side")
    git(root, "checkout", "-q", "main")
    write(root, "a", "ours")
    commit(root, "main")
    git(root, "merge", "side", ok=False)


@state
def rebase_stopped(root: Path) -> None:
    _diverged(root)
    git(root, "rebase", "side", ok=False)


@state
def cherry_pick_stopped(root: Path) -> None:
    _diverged(root)
    git(root, "cherry-pick", "side", ok=False)


@state
def intent_to_add(root: Path) -> None:
    for name in ("ita", "ita-gone", "ita dir/x", "*"):
        write(root, name, "" if name == "ita dir/x" else "content")
    git(root, "--literal-pathspecs", "add", "-N", "ita", "ita-gone", "ita dir/x", "*")
    (root / "ita-gone").unlink()
    (root / "empty").unlink()
    git(root, "rm", "-q", "--cached", "c")
    git(root, "add", "-N", "c")


@state
def assume_unchanged(root: Path) -> None:
    git(root, "update-index", "--assume-unchanged", "a", "b", "c", "link")
    write(root, "a", "changed all the same")
    (root / "b").unlink()


@state
def skip_worktree_by_hand(root: Path) -> None:
    git(root, "update-index", "--skip-worktree", "a", "b", "c")
    write(root, "a", "local settings")
    (root / "b").unlink()


@state
def sparse(root: Path) -> None:
    git(root, "sparse-checkout", "set", "--no-cone", "/*", "!/dir/")
    write(root, "a", "changed")


@state
def sparse_cone(root: Path) -> None:
    git(root, "sparse-checkout", "set", "--cone", "--sparse-index", "dir/sub")
    write(root, "dir/sub/z", "changed")
    git(root, "add", "dir/sub/z")


@state
def unfinished_index(root: Path) -> None:
    (root / ".git/index.lock").write_bytes(b"")
    write(root, "a", "x")


@state
def split_index(root: Path) -> None:
    git(root, "config", "core.splitIndex", "true")
    git(root, "update-index", "--split-index")
    staged_then_changed(root)


@state
def untracked_cache(root: Path) -> None:
    git(root, "update-index", "--force-untracked-cache")
    git(root, "config", "core.untrackedCache", "true")
    git(root, "status")
    untracked(root)


@state
def no_index_file(root: Path) -> None:
    (root / ".git/index").unlink()


@state
def replaced_objects(root: Path) -> None:
    write(root, "a", "second")
    second = commit(root)
    git(root, "replace", second, "HEAD~1")
    assert b"refs/replace/" in git(root, "for-each-ref")


@state
def grafted(root: Path) -> None:
    write(root, "a", "second")
    second = commit(root)
    write(root, ".git/info/grafts", f"{second}\n")


@state
def excluded_by_info(root: Path) -> None:
    write(root, ".git/info/exclude", "mine\n")
    write(root, "mine", "x")


@state
def ignored_but_tracked(root: Path) -> None:
    write(root, "x.o", "tracked")
    git(root, "add", "-f", "x.o")
    commit(root)
    write(root, "x.o", "changed")


@state
def attributes_for_line_ends(root: Path) -> None:
    write(
        root, ".gitattributes", "*.bat text eol=crlf\n*.id ident\n*.u16 text working-tree-encoding=UTF-16LE\n"
    )
    write(root, "run.bat", "one\r\ntwo\r\n")
    write(root, "x.id", "$Id$\n")
    write(root, "x.u16", "text\n".encode("utf-16-le"))
    commit(root)
    (root / "run.bat").unlink()
    (root / "x.id").unlink()
    git(root, "checkout", "-q", "--", ".")
    write(root, "new.bat", "new\r\n")


@state
def autocrlf(root: Path) -> None:
    git(root, "config", "core.autocrlf", "true")
    shutil.rmtree(root / "dir")
    git(root, "checkout", "-q", "--", "dir")
    assert b"\r\n" in (root / "dir/x").read_bytes()
    write(root, "dir/y", "changed\r\n")


@state
def autocrlf_input(root: Path) -> None:
    write(root, "crlf", "one\r\ntwo\r\n")
    git(root, "config", "core.autocrlf", "input")
    git(root, "add", "crlf")


@state
def eol(root: Path) -> None:
    write(root, ".gitattributes", "* text=auto\n")
    commit(root)
    git(root, "config", "core.eol", "crlf")
    shutil.rmtree(root / "dir")
    git(root, "checkout", "-q", "--", "dir")
    assert b"\r\n" in (root / "dir/x").read_bytes()


@state
def attributes_of_the_user(root: Path) -> None:
    write(root, ".git/info/attributes", "x eol=crlf\nz ident\n")
    shutil.rmtree(root / "dir")
    git(root, "checkout", "-q", "--", "dir")
    assert b"\r\n" in (root / "dir/x").read_bytes()


@state
def linked_worktree_inside(root: Path) -> None:
    git(root, "worktree", "add", "-q", "-b", "other", "tree")
    write(root, "tree/a", "changed there")


@state
def nested_repositories(root: Path) -> None:
    for name in ("nested", "deep/in/nested"):
        base(root / name)
        write(root, f"{name}/a", "changed")
        write(root, f"{name}/new", "new")
    base(root / "nested/inner")
    git(root, "init", "-q", "unborn")
    write(root, "unborn/file", "x")


@state
def nested_in_place_of_a_file(root: Path) -> None:
    (root / "a").unlink()
    base(root / "a")
    (root / "b").unlink()
    git(root, "init", "-q", "b")
    write(root, "b/inner", "x")


@state
def not_quite_repositories(root: Path) -> None:
    write(root, "one/.git", "gitdir: /no/such/place\n")
    write(root, "one/file", "x")
    (root / "two/.git").mkdir(parents=True)
    write(root, "two/file", "x")
    git(root, "init", "-q", "--bare", "bare.git")
    shutil.rmtree(root / "bare.git/hooks")


@state
def virtual_environment(root: Path) -> None:
    import venv

    venv.create(root / "venv", symlinks=True, with_pip=False)
    links = [os.readlink(path) for path in (root / "venv/bin").iterdir() if path.is_symlink()]
    assert any(os.path.isabs(link) for link in links)


@state
def servers_data(root: Path) -> None:
    write(root, ".pilothouse/admin-password", "hush")
    write(root, "other/server.lock", "")
    write(root, "other/server.key", "hush")
    write(root, "agents/agent.lock", "")
    write(root, "agents/credential", "hush")
