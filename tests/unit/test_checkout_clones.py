"""Submodules, and clones of every kind: partial, shallow, linked, with objects elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pilothouse.cli.checkout.known import KnownCommit, StoredPack
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.repository import find_repository
from pilothouse.cli.checkout.telling import notes
from support.checkout_kit import Server, commit, git, same, travel
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


# -- submodules -----------------------------------------------------------------------------------------------------


@pytest.fixture
def super_(root: Path, tmp_path: Path) -> Path:
    """A repository with submodules in many states; ``one/inner`` is a submodule of a submodule."""
    inner, library = base(tmp_path / "inner"), base(tmp_path / "library")
    git(library, "submodule", "add", "-q", str(inner), "inner")
    commit(library)
    for name in ("one", "two", "three", "four", "five", "six"):
        git(root, "submodule", "add", "-q", "--name", f"the {name}", str(library), f"libs/{name}")
    base(root / "own")  # a repository added as it is, named nowhere
    git(root, "add", "-A")
    commit(root)
    git(root, "submodule", "update", "-q", "--init", "--recursive", "libs/one")
    git(root, "submodule", "deinit", "-q", "-f", "libs/two")
    write(root, "libs/one/a", "changed")
    write(root, "libs/one/new", "new")
    write(root, "libs/one/inner/a", "changed further in")
    git(root / "libs/one", "add", "a")
    commit(root / "libs/three", "moved on")
    commit(root / "libs/four", "moved on")
    git(root, "add", "libs/four")
    git(root, "rm", "-q", "-f", "libs/five")
    shutil.rmtree(root / "libs/six")
    return root


def test_submodules(super_: Path, tmp_path: Path) -> None:
    server = Server()
    journey = travel(super_, tmp_path, server, SUBMODULES)
    same(super_, journey.copy, ignore_submodules="none")
    for path in ("libs/one", "libs/one/inner", "libs/three", "libs/four", "own"):
        same(super_ / path, journey.copy / path, ignore_submodules="none")
    names = {each["path"]: each.get("name") for each in journey.manifest["repositories"]}
    assert names["libs/one"] == "the one"
    assert names["libs/one/inner"] == "inner"
    assert names["own"] is None
    assert list(names) == sorted(names), "parents first"
    assert os.listdir(journey.copy / "libs/two") == []
    assert journey.packed.dirty
    assert notes(journey.tree) == []
    travel(super_, tmp_path, server, SUBMODULES)
    assert len(server.received) == 1, "their objects, too, are sent once"


def test_a_clean_submodule_is_not_dirty_and_one_with_a_file_is(root: Path, tmp_path: Path) -> None:
    git(root, "submodule", "add", "-q", str(base(tmp_path / "library")), "lib")
    commit(root)
    assert not travel(root, tmp_path, options=SUBMODULES).packed.dirty
    write(root, "lib/new", "x")
    assert travel(root, tmp_path, options=SUBMODULES).packed.dirty
    assert not travel(root, tmp_path).packed.dirty, "it is not sent"


def test_submodules_are_omitted_with_a_note_unless_requested(super_: Path, tmp_path: Path) -> None:
    journey = travel(super_, tmp_path)
    same(super_, journey.copy, {"status", "diff"}, ignore_submodules="all")
    assert os.listdir(journey.copy / "libs/one") == []
    [said] = notes(journey.tree)
    assert said.startswith("4 submodules (libs/four, libs/one, libs/three, …) left out")
    assert "checkout: {submodules: true}" in said


def test_a_submodule_that_became_something_else(root: Path, tmp_path: Path) -> None:
    library = base(tmp_path / "library")
    for name in ("file", "linked", "plain", "gone"):
        git(root, "submodule", "add", "-q", str(library), name)
    commit(root)
    for name in ("file", "linked", "plain", "gone"):
        shutil.rmtree(root / name)
    write(root, "file", "now a file")
    (root / "linked").symlink_to("a")
    (root / "plain").mkdir()
    for options in (CheckoutOptions(), SUBMODULES):
        same(root, travel(root, tmp_path, options=options).copy)
    git(root, "add", "-A")
    for options in (CheckoutOptions(), SUBMODULES):
        same(root, travel(root, tmp_path, options=options).copy)


def test_a_submodule_in_conflict(root: Path, tmp_path: Path) -> None:
    library = base(tmp_path / "library")
    git(root, "submodule", "add", "-q", str(library), "lib")
    commit(root)
    git(root, "checkout", "-q", "-b", "side")
    commit(root / "lib", "theirs")
    commit(root)
    git(root, "checkout", "-q", "main")
    git(root / "lib", "checkout", "-q", "-b", "ours", "HEAD~1")
    write(root, "lib/a", "ours")
    commit(root / "lib", "ours")
    commit(root)
    git(root, "merge", "side", ok=False)
    assert b"160000" in git(root, "ls-files", "-u")
    journey = travel(root, tmp_path, options=SUBMODULES)
    same(root, journey.copy, ignore_submodules="none")
    same(root / "lib", journey.copy / "lib")


def test_a_damaged_submodule_stops_only_if_it_is_sent(root: Path, tmp_path: Path) -> None:
    git(root, "submodule", "add", "-q", str(base(tmp_path / "library")), "lib")
    commit(root)
    shutil.rmtree(root / ".git/modules/lib")
    same(root, travel(root, tmp_path).copy)
    with pytest.raises(Exception, match=r"not a git repository: .*modules/lib"):
        travel(root, tmp_path, options=SUBMODULES)


# -- clones ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filtering", ["blob:none", "tree:0", "blob:limit=10"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_partial_clones(root: Path, tmp_path: Path, filtering: str, depth: int) -> None:
    git(root, "config", "uploadpack.allowFilter", "true")
    git(root, "config", "uploadpack.allowAnySHA1InWant", "true")
    for number in range(3):
        write(root, "a", f"{number}" * 20)
        commit(root)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", f"--filter={filtering}", f"file://{root}", str(clone))
    write(clone, "a", "changed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "support.checkout_kit.insides", lambda _root: {}
        )  # promised objects are fetched into it
        server = Server()
        journey = travel(clone, tmp_path, server, CheckoutOptions(depth=depth))
        same(clone, journey.copy)
        assert len(log(journey.copy)) == (depth or 4)
        write(clone, "b", "changed")
        commit(clone)
        foreign = KnownCommit("1" * 40, 1, (StoredPack("x", "0" * 64, 1),))
        server.commits[find_repository(clone).key].append(foreign)
        same(clone, travel(clone, tmp_path, server, CheckoutOptions(depth=depth)).copy)
        assert sum(server.received) < 2500


def test_a_partial_clone_without_its_remote(root: Path, tmp_path: Path) -> None:
    git(root, "config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{root}", str(clone))
    shutil.rmtree(root)
    with pytest.raises(Exception, match=r"git: (fatal|error): .*(could not|does not|promisor)"):
        travel(clone, tmp_path)


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_shallow_clones(root: Path, tmp_path: Path, depth: int) -> None:
    for number in range(5):
        write(root, "a", str(number))
        commit(root)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth=3", f"file://{root}", str(clone))
    server = Server()
    journey = travel(clone, tmp_path, server, CheckoutOptions(depth=depth))
    same(clone, journey.copy)
    assert len(log(journey.copy)) == min(depth or 3, 3)
    assert journey.packed.repositories[0].depth == min(depth or 3, 3), "what is there, not what was asked for"
    git(clone, "fetch", "-q", "--unshallow")
    after = travel(clone, tmp_path, server, CheckoutOptions(depth=depth))
    assert len(log(after.copy)) == min(depth or 6, 6)
    git(after.copy, "fsck", "--full")


def test_objects_of_another_repository(root: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--shared", str(root), str(clone))
    write(clone, "a", "x")
    commit(clone)
    same(clone, travel(clone, tmp_path).copy)


def test_a_linked_worktree(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    write(tmp_path / "tree", "a", "changed there")
    git(tmp_path / "tree", "add", "a")
    journey = travel(tmp_path / "tree", tmp_path)
    same(tmp_path / "tree", journey.copy)
    assert journey.manifest["repositories"][0]["branch"] == "other"


def test_a_git_directory_elsewhere(root: Path, tmp_path: Path) -> None:
    git(root, "init", "-q", f"--separate-git-dir={tmp_path / 'away'}")
    write(root, "a", "changed")
    same(root, travel(root, tmp_path).copy)
