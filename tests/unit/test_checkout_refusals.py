"""What cannot be sent as it is stops with git's own reason; what the repository names is never run."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.cli.checkout.archive import ArchiveWriter
from pilothouse.cli.checkout.errors import CheckoutTooLarge, GitFailed, GitMissing, PackingError
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.repository import find_repository
from pilothouse.cli.checkout.sending import pack_tree
from pilothouse.cli.checkout.state import File
from pilothouse.cli.checkout.telling import notes
from pilothouse.cli.checkout.tree import read_tree
from support.checkout_kit import commit, git, same, travel
from support.checkout_states import base, write

NOBODY = 65534


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return base(tmp_path / "repo")


# -- git does not take it ---------------------------------------------------------------------------------------


def give(root: Path, owner: int) -> None:
    """Another owner for everything."""
    for directory, names, files in os.walk(root):
        for name in (*names, *files, "."):
            os.chown(os.path.join(directory, name), owner, owner, follow_symlinks=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("inside", ["", "dir", ".git"])
def test_a_repository_of_another_owner(root: Path, inside: str) -> None:
    give(root, NOBODY)
    with pytest.raises(GitFailed, match="detected dubious ownership in repository at") as refused:
        find_repository(root / inside)
    assert "safe.directory" in refused.value.hint
    assert "\n" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("kind", ["nested", "submodule"])
def test_an_inner_repository_of_another_owner(root: Path, kind: str) -> None:
    base(root / "inner")
    if kind == "submodule":
        git(root, "add", "inner")
    give(root / "inner", NOBODY)
    with pytest.raises(GitFailed, match="dubious ownership"):
        read_tree(find_repository(root), CheckoutOptions(submodules=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_users_own_exception_counts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(root, NOBODY)
    config = tmp_path / "config"
    config.write_text(f"[safe]\n\tdirectory = {root}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert find_repository(root).branch == "main"


def test_no_git(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitMissing, match=r"repo is a git work tree, but there is no git in PATH"):
        find_repository(root / "dir")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert not find_repository(plain).in_git


@pytest.mark.parametrize("place", ["objects", "HEAD", "refs", "config"])
def test_a_damaged_repository(root: Path, place: str) -> None:
    found = root / ".git" / place
    if place == "config":
        found.write_text("[core\n")
    elif found.is_dir():
        shutil.rmtree(found)
    else:
        found.unlink()
    with pytest.raises(PackingError, match=r"git does not take it|bad config"):
        find_repository(root / "dir")


@pytest.mark.parametrize("inner", ["file", "directory"])
def test_a_damaged_repository_within_a_good_one(root: Path, inner: str) -> None:
    (root / "inner").mkdir()
    if inner == "file":
        (root / "inner/.git").write_text("gitdir: /no/such/place\n")
    else:
        (root / "inner/.git").mkdir()
    with pytest.raises(PackingError, match=r"git does not take it|not a git repository: /no/such"):
        find_repository(root / "inner")


def test_a_missing_commit(root: Path) -> None:
    oid = git(root, "rev-parse", "HEAD").decode().strip()
    (root / ".git/objects" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(GitFailed, match=r"bad object HEAD|could not parse|unable to read|bad object"):
        read_tree(find_repository(root), CheckoutOptions())


def test_a_missing_blob(root: Path, tmp_path: Path) -> None:
    oid = git(root, "rev-parse", "HEAD:a").decode().strip()
    (root / ".git/objects" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(GitFailed, match=oid):
        travel(root, tmp_path)


def test_a_damaged_index(root: Path) -> None:
    (root / ".git/index").write_bytes(b"DIRCxxxx")
    with pytest.raises(GitFailed, match=r"index file|bad index|header"):
        read_tree(find_repository(root), CheckoutOptions())


def test_a_bare_repository_and_the_inside_of_one(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "bare")
    for place in (tmp_path / "bare", tmp_path / "bare/refs", root / ".git", root / ".git/refs"):
        with pytest.raises(GitFailed, match="must be run in a work tree"):
            find_repository(place)


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory that another user reaches, too; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp()).resolve()
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@contextlib.contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """As the owner of a directory who, unlike root, may not read everything."""
    if os.geteuid() != 0:
        yield
        return
    give(directory, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["a", "new", "dir", "dir/.gitignore", "newdir", "nothing"])
def test_what_cannot_be_read(theirs: Path, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(theirs))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(theirs))
    root, out = base(theirs / "repo"), theirs / "out"
    for name in ("new", "dir/.gitignore", "newdir/x"):
        write(root, name, "x")
    write(root, "a", "changed")
    out.mkdir()
    if closed != "nothing":
        (root / closed).chmod(0)
    said = ""
    with as_nobody(theirs):
        try:
            options = CheckoutOptions()
            pack_tree(read_tree(find_repository(root), options), options, {}, out, 1 << 20)
        except PackingError as error:
            said = str(error)
    if closed == "nothing":
        assert said == "", "to be another user is no obstacle by itself"
    else:
        assert "Permission denied" in said
        assert closed in said


# -- hooks, filters and the environment ---------------------------------------------------------------------------


@pytest.fixture
def trap(root: Path, tmp_path: Path) -> Path:
    """A repository whose every program leaves a mark; the mark's path."""
    mark = tmp_path / "mark"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $* >>{mark}\ncat\n")
    program.chmod(0o755)
    hooks = root / ".git/hooks"
    shutil.rmtree(hooks, ignore_errors=True)
    hooks.mkdir()
    for hook in (
        "post-index-change",
        "fsmonitor-watchman",
        "pre-auto-gc",
        "reference-transaction",
        "post-checkout",
    ):
        shutil.copy(program, hooks / hook)
    for name in (
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "filter.dotted.name.clean",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "core.pager",
        "core.editor",
        "uploadpack.packObjectsHook",
    ):
        git(root, "config", name, str(program))
    git(root, "config", "filter.evil.required", "true")
    write(root, ".gitattributes", "a filter=evil diff=evil\nb filter=dotted.name\n")
    write(root, "a", "changed")
    os.utime(root / "b", (1, 1))
    return mark


def test_nothing_of_the_repository_is_run(root: Path, tmp_path: Path, trap: Path) -> None:
    journey = travel(root, tmp_path)
    assert not trap.exists(), trap.read_text()
    assert (journey.copy / "a").read_text() == "changed"
    assert (journey.copy / "b").read_text() == (root / "b").read_text()


REMOTES = {
    "ssh": {"remote.origin.url": "ssh://x/y", "core.sshCommand": "{program}"},
    "a program at the other end": {"remote.origin.url": "{root}", "remote.origin.uploadpack": "{program}"},
    "a transport that is a command": {"remote.origin.url": "ext::{program}", "protocol.ext.allow": "always"},
    "all transports": {"remote.origin.url": "ext::{program}", "protocol.allow": "always"},
    "a proxy": {"remote.origin.url": "git://127.0.0.1:1/x", "core.gitProxy": "{program}"},
    "an included file": {"remote.origin.url": "ssh://x/y", "include.path": "more"},
}


@pytest.mark.parametrize("settings", REMOTES.values(), ids=REMOTES.keys())
def test_nothing_is_run_to_fetch_what_was_promised(
    root: Path, tmp_path: Path, trap: Path, settings: dict[str, str]
) -> None:
    """A partial clone whose configuration names the programs that access its remote."""
    blob = git(root, "rev-parse", "HEAD:b").decode().strip()
    (root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    program = tmp_path / "program"
    write(root, ".git/more", f"[core]\n\tsshCommand = {program}\n")
    promised = {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
    }
    for name, value in {**promised, **settings}.items():
        git(root, "config", name, value.format(program=program, root=root))
    with pytest.raises(GitFailed, match=r"git: fatal: transport '\w+' not allowed") as refused:
        travel(root, tmp_path)
    assert "fetch them yourself" in refused.value.hint
    assert not trap.exists(), trap.read_text()


def test_the_users_own_configuration_may_name_programs(
    root: Path, tmp_path: Path, trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "gitconfig", f"[core]\n\tsshCommand = echo >{trap} upload-pack; false\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    settings = {"extensions.partialClone": "origin", "remote.origin.promisor": "true"}
    for name, value in {**settings, "remote.origin.url": "ssh://x/y"}.items():
        git(root, "config", name, value)
    blob = git(root, "rev-parse", "HEAD:b").decode().strip()
    (root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(GitFailed):
        travel(root, tmp_path)
    assert "upload-pack" in trap.read_text()


def test_a_filter_that_cannot_be_switched_off(root: Path) -> None:
    write(root, ".git/config", (root / ".git/config").read_text() + '[filter "a=b"]\n\tclean = evil\n')
    with pytest.raises(PackingError, match="a filter with = in its name"):
        read_tree(find_repository(root), CheckoutOptions())


LFS = """#!/bin/sh
cat >"$0.$$"
if [ "$1" = clean ] && ! grep -q git-lfs "$0.$$"; then
  echo "version https://git-lfs.github.com/spec/v1"
  echo "oid sha256:$(sha256sum <"$0.$$" | cut -d' ' -f1)"
  echo "size $(wc -c <"$0.$$")"
elif [ "$1" = smudge ]; then cat "$(dirname "$0")/content"
else cat "$0.$$"
fi
rm "$0.$$"
"""


@pytest.mark.parametrize("change", ["no", "touched", "content"])
@pytest.mark.parametrize("smudged", [True, False])
def test_files_of_lfs_travel_as_they_stand(root: Path, tmp_path: Path, smudged: bool, change: str) -> None:
    program = tmp_path / "lfs/program"
    write(tmp_path, "lfs/program", LFS)
    program.chmod(0o755)
    for name in ("clean", "smudge"):
        git(root, "config", f"filter.lfs.{name}", f"{program} {name}")
    write(root, ".gitattributes", "*.bin filter=lfs\n")
    write(root, "x.bin", "content\n")
    write(tmp_path, "lfs/content", "content\n")
    commit(root)
    pointer = git(root, "cat-file", "blob", "HEAD:x.bin").decode()
    assert pointer.startswith("version https://git-lfs")
    if not smudged:
        git(root, "config", "filter.lfs.smudge", "cat")
        (root / "x.bin").unlink()
        git(root, "checkout", "--", "x.bin")
    expected = "content\n" if smudged else pointer
    assert (root / "x.bin").read_text() == expected
    if change == "touched":
        os.utime(root / "x.bin", (1, 1))
    elif change == "content":
        expected = "CONTENT\n"
        write(root, "x.bin", expected)
    program.unlink()  # it is not run
    journey = travel(root, tmp_path)
    assert (journey.copy / "x.bin").read_text() == expected
    assert journey.packed.dirty == (change == "content")


def test_the_environment_of_a_hook(root: Path, tmp_path: Path) -> None:
    """A hook of one repository sends another one: git's variables name the first."""
    other = base(tmp_path / "other")
    write(root, "a", "changed")
    write(root, "new", "new")
    variables = {
        "GIT_DIR": str(other / ".git"),
        "GIT_INDEX_FILE": str(other / ".git/index"),
        "GIT_WORK_TREE": str(other),
        "GIT_PREFIX": "dir/",
        "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"),
        "GIT_QUARANTINE_PATH": str(other / ".git/objects"),
        "GIT_CONFIG_PARAMETERS": "'core.bare'='true'",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.excludesFile",
        "GIT_CONFIG_VALUE_0": str(tmp_path / "all"),
        "GIT_NAMESPACE": "x",
        "GIT_GLOB_PATHSPECS": "1",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_TRACE": "1",
    }
    (tmp_path / "all").write_text("*\n")
    plain = travel(root, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        journey = travel(root, tmp_path)
    assert journey.packed.archive.sha256 == plain.packed.archive.sha256
    same(root, journey.copy)


# -- what changes, and what is no file --------------------------------------------------------------------------


def test_special_files(root: Path, tmp_path: Path) -> None:
    (root / "a").unlink()
    os.mkfifo(root / "a")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "s"))
        journey = travel(root, tmp_path)
    assert not os.path.lexists(journey.copy / "a")
    assert notes(journey.tree) == ["1 special file (a) left out"]


def replaced(monkeypatch: pytest.MonkeyPatch, before: str, action: object) -> None:
    """Do something just before a file is packed."""
    packing = ArchiveWriter.file

    def file(self: ArchiveWriter, root: bytes, prefix: bytes, file: File) -> None:
        if file.path == before.encode():
            action()  # type: ignore[operator]
        packing(self, root, prefix, file)

    monkeypatch.setattr(ArchiveWriter, "file", file)


@pytest.mark.parametrize("how", ["gone", "pipe", "directory", "commit", "branch", "staged"])
def test_what_changes_while_it_is_packed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write(root, "new", "x")

    def change() -> None:
        match how:
            case "gone":
                (root / "new").unlink()
            case "pipe":
                (root / "new").unlink()
                os.mkfifo(root / "new")
            case "directory":
                (root / "new").unlink()
                (root / "new").mkdir()
            case "commit":
                git(root, "commit", "-q", "--allow-empty", "-m", "meanwhile")
            case "branch":
                git(root, "checkout", "-q", "-b", "other")
            case "staged":
                git(root, "add", "new")

    tree = read_tree(find_repository(root), CheckoutOptions())
    replaced(monkeypatch, "new", change)
    with pytest.raises(PackingError, match=r"changed while it was read|No such file|Is a directory"):
        pack_tree(tree, CheckoutOptions(), {}, tmp_path, 1 << 20)


def test_an_index_that_is_only_refreshed_meanwhile_is_no_change(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "new", "x")
    os.utime(root / "b", (1, 1))
    tree = read_tree(find_repository(root), CheckoutOptions())
    before = (root / ".git/index").read_bytes()
    replaced(monkeypatch, "new", lambda: git(root, "update-index", "--refresh"))
    pack_tree(tree, CheckoutOptions(), {}, tmp_path, 1 << 20)
    assert (root / ".git/index").read_bytes() != before


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["untracked", "changed", "committed", "staged", "plain"])
def test_too_large_to_be_sent(tmp_path: Path, how: str) -> None:
    root = tmp_path / "repo"
    if how == "plain":
        root.mkdir()
    else:
        base(root)
    large = os.urandom(3 << 20)
    write(root, "a" if how == "changed" else "large", large)
    if how == "committed":
        commit(root)
    if how == "staged":
        git(root, "add", "large")
        write(root, "large", "small")
    out = tmp_path / "out"
    out.mkdir()
    tree = read_tree(find_repository(root), CheckoutOptions())
    with pytest.raises(CheckoutTooLarge, match=r"is over 2\.0 MiB packed") as refused:
        pack_tree(tree, CheckoutOptions(), {}, out, 2 << 20)
    assert "PILOT_MAX_CHECKOUT" in refused.value.hint
    if how != "staged":
        assert f"{'a' if how == 'changed' else 'large'} (3.0 MiB)" in str(refused.value)


@pytest.mark.parametrize("how", ["untracked", "committed"])
def test_too_large_once_unpacked(root: Path, tmp_path: Path, how: str) -> None:
    (root / "zeros").write_bytes(b"")
    os.truncate(root / "zeros", 20 << 20)
    if how == "committed":
        commit(root)
    tree = read_tree(find_repository(root), CheckoutOptions())
    with pytest.raises(CheckoutTooLarge, match=r"zeros \(20\.0 MiB\)"):
        pack_tree(tree, CheckoutOptions(), {}, tmp_path, 2 << 20)


def test_too_many_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilothouse.cli.checkout.state.MAX_FILES", 10)
    for number in range(11):
        write(root, f"new{number}", "x")
    with pytest.raises(CheckoutTooLarge, match=r"over 10 files"):
        read_tree(find_repository(root), CheckoutOptions())


def test_a_name_that_no_agent_takes(root: Path, tmp_path: Path) -> None:
    write(root, "x/.Git/config", "x")
    with pytest.raises(PackingError, match=r"\.Git/config: no agent takes"):
        travel(root, tmp_path)


def test_a_nested_git_file_that_names_another_repository(root: Path, tmp_path: Path) -> None:
    """What lies in a directory from somewhere else must not make us send another repository of the user's."""
    private = base(tmp_path / "private", "sha1")
    (root / "sub").mkdir()
    (root / "sub" / ".git").write_text(f"gitdir: {private}/.git\n")
    with pytest.raises(PackingError, match="names a repository elsewhere"):
        travel(root, tmp_path)


def test_a_linked_worktree_of_another_repository_is_sent(root: Path, tmp_path: Path) -> None:
    other = base(tmp_path / "other", "sha1")
    git(other, "worktree", "add", "-q", "-b", "side", str(root / "sub"))
    assert [each["path"] for each in travel(root, tmp_path).manifest["repositories"]] == ["", "sub"]
