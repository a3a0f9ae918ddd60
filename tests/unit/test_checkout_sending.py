"""What is sent, and what is not sent again: packs, depth, tags, submodules, partial and shallow clones, plain files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.known import KnownCommit, StoredPack, choose_base
from pilothouse.cli.checkout.options import CheckoutOptions, options_of, sent_limit
from pilothouse.cli.checkout.origin import key_of, last_segment, without_credentials
from pilothouse.cli.checkout.repository import find_repository
from pilothouse.cli.checkout.telling import notes, sending
from pilothouse.cli.errors import UsageError
from support.checkout_kit import Journey, Server, commit, git, picture, same, shape, travel
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


def test_back_to_an_earlier_commit_and_content_that_was_gone_for_a_while(root: Path, tmp_path: Path) -> None:
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


def test_submodules_are_left_out_unless_asked_for_and_that_is_said(super_: Path, tmp_path: Path) -> None:
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
        server.commits[find_repository(clone).key].append(known("1" * 40, 1))
        same(clone, travel(clone, tmp_path, server, CheckoutOptions(depth=depth)).copy)
        assert sum(server.received) < 2500


def test_a_partial_clone_whose_remote_is_gone(root: Path, tmp_path: Path) -> None:
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


def test_the_line_that_says_what_travels(root: Path, tmp_path: Path) -> None:
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


# -- who it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin", "key", "name"),
    [
        ("https://Git.Example/team/shop.git", "https://Git.Example/team/shop.git", "https://git.example/team/shop", "shop"),
        ("https://me:pw@git.example:8443/shop/", "https://git.example:8443/shop/", "https://git.example:8443/shop", "shop"),
        ("https://TOKEN@h/x.git?access=1#f", "https://h/x.git", "https://h/x", "x"),
        ("https://me@corp:pw@h/x", "https://h/x", "https://h/x", "x"),
        ("ssh://git:pw@Host:22/t/x.git", "ssh://git@Host:22/t/x.git", "ssh://host:22/t/x", "x"),
        ("git@Host.example:team/shop.git", "git@Host.example:team/shop.git", "host.example:team/shop", "shop"),
        ("host:shop", "host:shop", "host:shop", "shop"),
        ("/srv/git/shop.git", "/srv/git/shop.git", "/srv/git/shop", "shop"),
        ("file:///srv/shop.git", "file:///srv/shop.git", "file:///srv/shop", "shop"),
        ("ext::sh -c 'secret'", "", "", ""),
        ("codecommit::eu://me@shop", "", "", ""),
        ("https://h/x\n", "", "", ""),
        ("https://h/" + "x" * 2000, "", "", ""),
    ],
)  # fmt: skip
def test_origins(url: str, origin: str, key: str, name: str) -> None:
    assert without_credentials(url) == origin
    assert key_of(origin) == key
    assert last_segment(origin) == name


def test_who_a_repository_is(root: Path, tmp_path: Path) -> None:
    first = find_repository(root / "dir")
    assert (first.root, first.name, first.branch, first.tag) == (root, "repo", "main", "")
    assert first.key.startswith("dir:")
    assert first.key != find_repository(base(tmp_path / "other")).key
    git(root, "remote", "add", "origin", "https://me:hush@git.example/team/shop.git")
    git(root, "tag", "-a", "-m", "x", "v1")
    found = find_repository(root)
    assert (found.key, found.name, found.tag) == ("https://git.example/team/shop", "shop", "v1")
    assert "hush" not in repr(found)
    assert found.commit == git(root, "rev-parse", "HEAD").decode().strip()
    git(root, "remote", "set-url", "origin", "../library.git")
    assert find_repository(root).key == f"{tmp_path}/library"


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("jobs: []", CheckoutOptions()),
        (
            "checkout: {depth: 0, tags: true, submodules: true, lfs: true}",
            CheckoutOptions(0, True, True, True),
        ),
        ('{"checkout": {"depth": 7}}', CheckoutOptions(7)),
        ("checkout: {depth: true, tags: 'yes', submodules: 1}", CheckoutOptions()),
        ("checkout: {depth: -1}", CheckoutOptions()),
        ("checkout: [a", CheckoutOptions()),
        ("checkout: !!python/object/apply:os.system [id]", CheckoutOptions()),
        ("- checkout", CheckoutOptions()),
        ("a: &a [checkout]\n" + "b: " + "[" * 5000, CheckoutOptions()),
    ],
)
def test_options(spec: str, expected: CheckoutOptions) -> None:
    assert options_of(spec) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 256 << 20),
        ("1000", 1000),
        ("512MiB", 512 << 20),
        ("2 GB", 2 << 30),
        ("1.5g", 3 << 29),
        ("10k", 10240),
    ],
)
def test_limits(text: str, size: int) -> None:
    assert sent_limit({"PILOT_MAX_CHECKOUT": text}) == size


@pytest.mark.parametrize("text", ["0", "much", "-1", "1e9", "5PiB", "9" * 400])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="PILOT_MAX_CHECKOUT"):
        sent_limit({"PILOT_MAX_CHECKOUT": text})


def test_the_picture_sees_differences(root: Path, tmp_path: Path) -> None:
    """The comparison that the other tests rest on."""
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    same(root, tmp_path / "copy")
    write(tmp_path / "copy", "new", "x")
    assert picture(root) != picture(tmp_path / "copy")
