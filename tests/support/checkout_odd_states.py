"""More states of git work trees: conflicts, flags of the index, conversions, other repositories within."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from support.checkout_kit import commit, git
from support.checkout_states import base, staged_then_changed, state, untracked, write


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
def assume_unchanged_and_staged(root: Path) -> None:
    for name in ("a", "b", "c", "link"):
        (root / name).unlink()
        write(root, name, f"staged {name}")
    git(root, "add", "a", "b", "c", "link")
    git(root, "update-index", "--assume-unchanged", "a", "b", "c", "link")
    (root / "a").unlink()
    write(root, "b", "changed again")
    (root / "c").unlink()
    write(root, "c/inner", "a directory now")
    (root / "link").unlink()
    (root / "link").symlink_to("a")


@state
def skip_worktree_and_staged(root: Path) -> None:
    for name in ("a", "b", "c"):
        write(root, name, f"staged {name}")
    git(root, "add", "a", "b", "c")
    git(root, "update-index", "--skip-worktree", "a", "b", "c")
    (root / "a").unlink()
    write(root, "b", "changed again")
    (root / "c").unlink()
    write(root, "c/inner", "a directory now")


@state
def both_flags(root: Path) -> None:
    for flag in ("--assume-unchanged", "--skip-worktree"):
        git(root, "update-index", flag, "a", "b", "c")
    (root / "a").unlink()
    write(root, "b", "changed")


@state
def flags_on_what_is_new(root: Path) -> None:
    for name in ("one", "two", "three"):
        write(root, name, name)
    git(root, "add", "one", "two", "three")
    git(root, "update-index", "--assume-unchanged", "one", "two")
    git(root, "update-index", "--skip-worktree", "three")
    (root / "one").unlink()
    write(root, "two", "changed")
    (root / "three").unlink()


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
def nested_in_place_of_flagged_files(root: Path) -> None:
    write(root, "c", "staged")
    git(root, "add", "c")
    git(root, "update-index", "--assume-unchanged", "a", "c")
    git(root, "update-index", "--skip-worktree", "b")
    for name in ("a", "b", "c"):
        (root / name).unlink()
        git(root, "init", "-q", name)
        write(root, f"{name}/inner", name)
        commit(root / name)


@state
def not_quite_repositories(root: Path) -> None:
    write(root, "one/.git", "gitdir: /no/such/place\n")
    write(root, "one/file", "x")
    (root / "two/.git").mkdir(parents=True)
    write(root, "two/file", "x")
    git(root, "init", "-q", "--bare", "bare.git")
    shutil.rmtree(root / "bare.git/hooks")


@state
def directory_that_became_a_link_to_itself(root: Path) -> None:
    shutil.rmtree(root / "dir")
    (root / "dir").symlink_to("dir/sub")


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
