"""What is sent, and what is not sent again: packs, depth, tags, submodules, partial and shallow clones, plain files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.known import KnownCommit, StoredPack, choose_base
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.telling import notes, sending
from support.checkout_kit import Journey, Server, commit, git, same, shape, travel
from support.checkout_states import base, write

WHOLE = CheckoutOptions(depth=0)
SUBMODULES = CheckoutOptions(submodules=True)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return base(tmp_path / "repo")


def log(root: Path) -> list[bytes]:
    return git(root, "rev-list", "HEAD").split()


# -- only once ----------------------------------------------------------------------------------------------------


def test_what_is_known_is_not_sent_again(root: Path, tmp_path: Path) -> None:
    write(root, "large", os.urandom(1 << 20))
    commit(root)
    server = Server()
    travel(root, tmp_path, server)
    assert sum(server.received) > 1 << 20
    write(root, "a", "changed")
    write(root, "new", "new")
    git(root, "add", "new")
    second = travel(root, tmp_path, server)
    assert len(server.received) == 1
    assert server.received[0] < 2000
    same(root, second.copy)
    commit(root)
    third = travel(root, tmp_path, server)
    assert len(server.received) == 2
    assert sum(server.received) < 3000
    assert len(third.manifest["repositories"][0]["packs"]) == 2
    same(root, third.copy)


def test_back_to_an_earlier_commit_and_content_that_was_removed_meanwhile(root: Path, tmp_path: Path) -> None:
    """What a known commit's *ancestors* had is not there: at depth 1 only its own tree is."""
    content = os.urandom(100_000)
    write(root, "large", content)
    commit(root)
    (root / "large").unlink()
    commit(root)
    server = Server()
    travel(root, tmp_path, server)
    assert sum(server.received) < 10_000
    write(root, "back", content)
    commit(root)
    journey = travel(root, tmp_path, server)
    assert sum(server.received) > 100_000
    same(root, journey.copy)
    git(root, "checkout", "-q", "HEAD~2")
    same(root, travel(root, tmp_path, server).copy)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 60])
def test_a_history_grows(root: Path, tmp_path: Path, depth: int) -> None:
    """With a merge, an amended commit, a branch from an earlier one, each laid out from what is known by then."""
    options, server = CheckoutOptions(depth=depth), Server()
    write(root, "large", os.urandom(50_000))
    for number in range(4):
        write(root, f"f{number}", str(number))
        commit(root)
    check_depth(travel(root, tmp_path, server, options), root, depth)
    git(root, "checkout", "-q", "-b", "side", "HEAD~2")
    write(root, "side", "side")
    commit(root)
    git(root, "checkout", "-q", "main")
    write(root, "main", "main")
    commit(root)
    git(root, "merge", "-q", "-m", "merged", "side")
    git(root, "commit-graph", "write", "--reachable")
    git(root, "repack", "-q", "-a", "-d", "--write-bitmap-index")
    check_depth(travel(root, tmp_path, server, options), root, depth)
    assert sum(server.received) < 20_000
    git(root, "commit", "-q", "--amend", "-m", "said better")
    check_depth(travel(root, tmp_path, server, options), root, depth)
    assert sum(server.received) < 20_000
    git(root, "checkout", "-q", "side")
    check_depth(travel(root, tmp_path, server, options), root, depth)
    assert sum(server.received) < 20_000


def check_depth(journey: Journey, root: Path, depth: int) -> None:
    """The copy's history is that of a clone of this depth."""
    same(root, journey.copy)
    clone = journey.copy.parent / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    how = (f"--depth={depth}",) if depth else ()
    git(root, "clone", "-q", *how, "--single-branch", f"file://{root}", str(clone))
    assert sorted(log(journey.copy)) == sorted(log(clone))
    git(journey.copy, "fsck", "--full", "--strict")


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 3), (3, 1), (0, 3), (3, 0)])
def test_another_depth_than_before(root: Path, tmp_path: Path, before: int, after: int) -> None:
    for number in range(5):
        write(root, f"f{number}", str(number))
        commit(root)
    server = Server()
    check_depth(travel(root, tmp_path, server, CheckoutOptions(depth=before)), root, before)
    check_depth(travel(root, tmp_path, server, CheckoutOptions(depth=after)), root, after)
    commit(root)
    check_depth(travel(root, tmp_path, server, CheckoutOptions(depth=before)), root, before)
    check_depth(travel(root, tmp_path, server, CheckoutOptions(depth=after)), root, after)


def test_many_commits_never_make_a_long_chain_nor_send_everything_again(root: Path, tmp_path: Path) -> None:
    write(root, "large", os.urandom(200_000))
    commit(root)
    server = Server()
    travel(root, tmp_path, server)
    for number in range(24):
        write(root, "a", str(number))
        commit(root)
        journey = travel(root, tmp_path, server)
        assert sum(server.received) < 50_000, number
        assert len(journey.packed.repositories[0].packs) <= 20
    same(root, journey.copy)


def test_staged_changes_on_one_commit_never_make_a_chain(root: Path, tmp_path: Path) -> None:
    server = Server()
    for number in range(4):
        write(root, "a", str(number))
        git(root, "add", "a")
        journey = travel(root, tmp_path, server)
        assert len(journey.packed.repositories[0].packs) == 1
    same(root, journey.copy)


def test_staged_objects_that_the_commit_has_are_not_sent(root: Path, tmp_path: Path) -> None:
    write(root, "large", os.urandom(100_000))
    commit(root)
    server = Server()
    travel(root, tmp_path, server)
    git(root, "mv", "large", "larger")
    (root / "larger").unlink()
    same(root, travel(root, tmp_path, server).copy)
    assert sum(server.received) < 5000


def known(oid: str, packs: int, depth: int = 1) -> KnownCommit:
    return KnownCommit(oid, depth, tuple(StoredPack(f"{oid}{n}", "0" * 64, 1) for n in range(packs)))


def test_which_commit_is_built_upon(root: Path) -> None:
    commits = [git(root, "rev-parse", "HEAD").decode().strip(), *(commit(root) for _ in range(5))]
    git_, head = Git(root), commits[5]
    foreign = known("1" * 40, 1)
    nearest = known(commits[4], 3)
    assert choose_base(git_, head, 1, [foreign]) is None
    assert choose_base(git_, head, 1, []) is None
    assert choose_base(git_, head, 1, [known("not an id", 1), known("--all", 1)]) is None
    assert (
        choose_base(git_, head, 1, [foreign, known(commits[0], 1), nearest, known(commits[2], 1)]) == nearest
    )
    assert choose_base(git_, head, 1, [nearest, known(head, 20)]) == known(head, 20)
    assert choose_base(git_, head, 0, [nearest, known(head, 1)]) == known(head, 1), (
        "nearest, if not deep enough"
    )
    assert choose_base(git_, head, 1, [known(commits[4], 20)]) is None
    long = known(commits[4], 11)
    assert choose_base(git_, head, 1, [long, known(commits[0], 2)]) == known(commits[0], 2)
    assert choose_base(git_, head, 1, [long]) == long


# -- tags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_tags_of_what_is_there(root: Path, tmp_path: Path, depth: int) -> None:
    git(root, "tag", "first")
    git(root, "tag", "-a", "-m", "x", "annotated-first")
    commit(root)
    git(root, "tag", "-a", "-m", "x", "v2")
    git(root, "tag", "-a", "-m", "x", "again", "v2")
    git(root, "tag", "a-blob", "HEAD:a")
    git(root, "checkout", "-q", "-b", "side")
    commit(root, "aside")
    git(root, "tag", "aside")
    git(root, "checkout", "-q", "main")
    server = Server()
    without = travel(root, tmp_path, server, CheckoutOptions(depth=depth))
    assert git(without.copy, "tag") == b""
    journey = travel(root, tmp_path, server, CheckoutOptions(depth=depth, tags=True))
    expected = {"v2", "again", *(() if depth == 1 else ("first", "annotated-first"))}
    assert set(git(journey.copy, "tag").decode().split()) == expected
    for tag in expected:
        assert git(journey.copy, "rev-parse", tag) == git(root, "rev-parse", tag)
    git(journey.copy, "fsck", "--full")
    assert git(journey.copy, "describe") == git(root, "describe", "HEAD")


# -- without git ------------------------------------------------------------------------------------------------------


def test_a_plain_directory(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    write(root, "a/b/file", "x")
    write(root, "manifest.json", "mine")
    write(root, b"odd \xff\n", "x")
    write(root, "tool", "x")
    (root / "tool").chmod(0o755)
    (root / "void/inner").mkdir(parents=True)
    (root / "to-directory").symlink_to("a")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    for name in (".pilothouse/key", "x/server.lock", "x/server.key", "y/agent.lock", "y/credential"):
        write(root, name, "hush")
    write(root, "clone/.git/config", "hush")
    write(root, "clone/file", "x")
    journey = travel(root, tmp_path)
    assert journey.manifest == {"version": 1, "git": False, "repositories": []}
    assert not journey.packed.dirty
    there = {
        os.path.relpath(os.path.join(d, n), journey.copy)
        for d, _, names in os.walk(journey.copy)
        for n in names
    }
    links = {"to-directory"}
    assert there | links == {
        "a/b/file", "manifest.json", "odd \udcff\n", "tool", "absolute", "loop", "clone/file", "to-directory"
    }  # fmt: skip
    for name in there | links:
        assert shape(os.fsencode(journey.copy / name)) == shape(os.fsencode(root / name))
    assert (journey.copy / "void/inner").is_dir()
    assert notes(journey.tree) == [
        "1 special file (pipe) left out",
        "1 git repository (clone) sent as plain files, ignored ones included, since "
        f"{root} is no git work tree",
    ]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        root = tmp_path / name
        for each in ("b", "a", "c/d") if name == "one" else ("c/d", "a", "b"):
            write(root, each, each)
        os.utime(root / "a", (1, 1))
        digests.add(travel(root, tmp_path / f"{name}-out").packed.archive.sha256)
    assert len(digests) == 1


def test_the_summary_of_an_upload(root: Path, tmp_path: Path) -> None:
    server = Server()
    journey = travel(root, tmp_path, server)
    size = journey.packed.size
    assert sending(journey.tree, 0, 0, 812) == f"sending 0 changed files and no new objects of {root} (812 B)"
    assert sending(journey.tree, 1, 2048, size).startswith(
        "sending 1 changed file and 2.0 KiB of new objects of "
    )
    plain = tmp_path / "plain"
    write(plain, "a", "x")
    assert sending(travel(plain, tmp_path).tree, 1, 0, 10) == f"sending 1 file of {plain} (10 B)"
