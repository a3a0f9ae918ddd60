"""Malicious manifests, objects and repositories: nothing is executed or written outside the work tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent.layout import ArchiveLimits
from pilothouse.agent.manifest import without_credentials
from pilothouse.agent.workspace import WorkspaceError
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
    write,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "source", {"README": "hello\n", "d/one": "1\n"})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def refused(desk: Desk, made: Checkout) -> WorkspaceError:
    with pytest.raises(WorkspaceError) as error:
        await desk.lay_out(made)
    assert [name for name in os.listdir(desk.root / "work") if name != ".git"] == []
    assert not (desk.root / "work" / "evil").exists()
    assert not (desk.root.parent / "evil").exists()
    return error.value


ONE = "1" * 40
WRONG: dict[str, dict[str, Any]] = {
    "a path above": {"path": "../evil"},
    "an absolute path": {"path": "/tmp/evil"},
    "a path of git": {"path": "a/.GIT/x"},
    "a path that is not plain": {"path": "a//b"},
    "a commit that is none": {"commit": "HEAD"},
    "a commit that is an option": {"commit": "--help"},
    "another format": {"object_format": "md5"},
    "a commit of another format": {"object_format": "sha256"},
    "no commit and no branch": {"commit": "", "branch": ""},
    "a branch that leads elsewhere": {"branch": "../../../evil"},
    "a branch with a line": {"branch": "main\n[core]\nfsmonitor=touch evil"},
    "a branch that is an option": {"branch": "-f"},
    "a branch of a lock": {"branch": "a.lock"},
    "a tag that leads elsewhere": {"tags": {"../../evil": ONE}},
    "a tag of nothing": {"tags": {"v1": "HEAD"}},
    "tags that are none": {"tags": ["v1"]},
    "a name with a line": {"path": "d", "name": 'x"]\n[core]\n\tfsmonitor = touch evil\n[submodule "y'},
    "an origin with a line": {"origin": "https://x/\n[core]\n\tfsmonitor = touch evil"},
    "a pack that nobody announced": {"packs": ["0" * 64]},
    "no pack": {"packs": []},
    "a pack that is a path": {"packs": ["../../../etc/passwd"]},
    "many packs": {"packs": ["0" * 64] * 21},
    "a shallow commit that is none": {"shallow": ["main"]},
    "intent above": {"intent_to_add": ["../evil"]},
    "a number": {"branch": 7},
    "a format that is a list": {"object_format": ["sha1"]},
    "a branch with half a character": {"branch": "\ud800"},
    "an origin with half a character": {"origin": "https://x/\ud800"},
    "a name with half a character": {"path": "d", "name": "\ud800"},
    "a tag with half a character": {"tags": {"\ud800": ONE}},
    "a path with half a character": {"path": "\ud800"},
    "intent with half a character": {"intent_to_add": ["\ud800"]},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG.keys())
async def test_a_malicious_manifest(desk: Desk, source: Path, fields: dict[str, Any]) -> None:
    made = checkout_of(source)
    if fields.get("path"):
        made.repository(source, "sub")
    made.manifest["repositories"][-1].update(fields)
    assert (await refused(desk, made)).code == "MANIFEST_INVALID"


MANIFESTS: list[dict[str, Any]] = [
    {"version": 2},
    {"version": "1"},
    {"repositories": []},
    {"repositories": [{"path": "sub", "commit": "", "branch": "main"}]},
    {"repositories": [{"path": "", "commit": "", "branch": "main"}] * 2},
    {"repositories": [{"path": "", "commit": "", "branch": "main"}] * 201},
    {"repositories": ["x"]},
    {"repositories": {}},
]


@pytest.mark.parametrize("fields", MANIFESTS)
async def test_a_manifest_that_is_none(desk: Desk, fields: dict[str, Any]) -> None:
    made = Checkout()
    made.manifest.update(fields)
    assert (await refused(desk, made)).code == "MANIFEST_INVALID"


def tree(source: Path, *entries: tuple[str, str, str]) -> str:
    """A tree of any names: mode, id, name each; git mktree checks none of them with --missing."""
    data = b"".join(
        mode.encode() + b" " + os.fsencode(name) + b"\0" + bytes.fromhex(target)
        for mode, target, name in entries
    )
    return git(source, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", stdin=data).strip()


def hostile(source: Path, *trees: str) -> Checkout:
    """A checkout of a commit of the last of these trees."""
    made_of = git(source, "commit-tree", "-m", "x", trees[-1]).strip()
    blob = git(source, "hash-object", "-w", "--stdin", stdin="touch evil\n").strip()
    made = Checkout()
    packed = made.add_pack(pack(source, made_of, blob, *trees))
    described = {"path": "", "commit": made_of, "branch": "main", "shallow": [], "packs": [packed]}
    made.manifest["repositories"].append(described)
    return made


NAMES = [
    ".git",
    ".GIT",
    ".giT",
    "git~1",
    ".git ",
    ".g\u200cit",
    ".git::$INDEX_ALLOCATION",
    "..",
    ".",
    "a/../../evil",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["directory", "file", "link"])
async def test_trees_with_names_that_git_refuses(desk: Desk, source: Path, name: str, kind: str) -> None:
    blob = git(source, "hash-object", "-w", "--stdin", stdin="touch evil\n").strip()
    inner = tree(source, ("100644", blob, "config"))
    entry = {"directory": ("40000", inner), "file": ("100644", blob), "link": ("120000", blob)}[kind]
    error = await refused(desk, hostile(source, inner, tree(source, (*entry, name))))
    assert error.code == "GIT_FAILED"
    assert "git read-tree: error: invalid path" in str(error) or "fatal" in str(error)


async def test_a_link_and_a_directory_of_one_name(desk: Desk, source: Path, tmp_path: Path) -> None:
    """The files of the directory must not go where the link leads."""
    target = git(source, "hash-object", "-w", "--stdin", stdin=str(tmp_path)).strip()
    blob = git(source, "hash-object", "-w", "--stdin", stdin="touch evil\n").strip()
    inner = tree(source, ("100644", blob, "evil"))
    for entries in (
        [("120000", target, "a"), ("40000", inner, "a")],
        [("40000", inner, "a"), ("120000", target, "a")],
    ):
        made = hostile(source, inner, tree(source, *entries))
        made.packs |= {made.add_pack(pack(source, target)): pack(source, target)}
        made.manifest["repositories"][0]["packs"] = list(made.packs)
        try:
            await desk.lay_out(made)
        except WorkspaceError as error:
            assert error.code in ("GIT_FAILED", "MANIFEST_INVALID")
        assert not (tmp_path / "evil").exists()


async def test_a_tree_that_grows_without_end(desk: Desk, source: Path) -> None:
    """Ten entries of the same tree, ten times over: ten thousand million files in twelve objects."""
    blob = git(source, "hash-object", "-w", "--stdin", stdin="touch evil\n").strip()
    trees = [tree(source, *[("100644", blob, f"f{number}") for number in range(10)])]
    for _ in range(9):
        trees.append(tree(source, *[("40000", trees[-1], f"d{number}") for number in range(10)]))
    error = await refused(desk, hostile(source, *trees))
    assert error.code == "TREE_TOO_LARGE"


async def test_a_commit_that_is_too_large(tmp_path: Path, source: Path) -> None:
    desk = Desk(tmp_path, limits=ArchiveLimits(total_bytes=1_000_000, members=30))
    write(source / "big", bytes(1_000_001))
    commit(source)
    assert (await refused(desk, checkout_of(source))).code == "TREE_TOO_LARGE"
    (source / "big").unlink()
    for number in range(31):
        write(source / f"f{number}")
    commit(source)
    assert (await refused(desk, checkout_of(source))).code == "TREE_TOO_LARGE"


GROWING = {
    "ident": ("* ident\n", "$Id$\n" * 30_000),
    "line ends": ("* text eol=crlf\n", "\n" * 150_000),
    "encoding": ("f* text working-tree-encoding=UTF-32LE\n", ("x" * 150_000).encode("utf-32-le")),
}


@pytest.mark.parametrize("how", GROWING)
@pytest.mark.parametrize("disk", ["room", "short"])
@pytest.mark.parametrize("files", [1, 8])
async def test_files_that_grow_when_they_are_laid_out(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, how: str, disk: str, files: int
) -> None:
    """A commit within the bound, whose files are not: in one, and in many at once."""
    attributes, content = GROWING[how]
    desk = Desk(tmp_path, limits=ArchiveLimits(total_bytes=250_000, members=30))
    if disk == "short":
        monkeypatch.setattr("pilothouse.agent.objects.FREE", 1 << 60)
    write(source / ".gitattributes", attributes)
    for number in range(files):
        write(source / f"f{number}", content[: len(content) // files])
    commit(source)
    assert (await refused(desk, checkout_of(source))).code == "TREE_TOO_LARGE"
    assert not [path for path in (tmp_path).rglob("f0") if source not in path.parents]


async def test_repositories_that_are_too_large_together(tmp_path: Path, source: Path) -> None:
    desk = Desk(tmp_path, limits=ArchiveLimits(total_bytes=250_000, members=100))
    write(source / "big", bytes(100_000))
    commit(source)
    made = checkout_of(source)
    [top] = made.manifest["repositories"]
    for name in ("one", "two"):
        made.manifest["repositories"].append({**top, "path": name, "kind": "nested"})
    assert (await refused(desk, made)).code == "TREE_TOO_LARGE"


async def test_what_a_repository_would_have_executed(desk: Desk, source: Path, tmp_path: Path) -> None:
    """Attributes name filters, textconv and merge drivers; ``.gitmodules`` an update command."""
    touch = f"touch {tmp_path / 'evil'}"
    write(source / ".gitattributes", "* filter=evil diff=evil merge=evil\nREADME filter=lfs\n")
    write(source / ".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = ext::{touch}\n\tupdate = !{touch}\n')
    write(source / ".lfsconfig", f"[lfs]\n\turl = ext::{touch}\n")
    commit(source)
    write(source / "d/one", "changed\n")
    write(source / "hooks/post-checkout", f"#!/bin/sh\n{touch}\n")
    there = await desk.lay_out(checkout_of(source))
    assert contents(there) == contents(source)
    assert git(there, "status", "--porcelain") == " M d/one\n?? hooks/\n"
    assert not (tmp_path / "evil").exists()
    assert not (there / ".git" / "hooks").exists()


async def test_the_configuration_of_user_and_machine_is_not_read(
    desk: Desk, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "fsmonitor",
        "hooks/post-checkout",
        "hooks/reference-transaction",
        "hooks/post-index-change",
    ):
        write(tmp_path / name, f"#!/bin/sh\ntouch {tmp_path / 'evil'}\n")
        (tmp_path / name).chmod(0o755)
    lines = f"fsmonitor = {tmp_path / 'fsmonitor'}\nhooksPath = {tmp_path / 'hooks'}\nautocrlf = true\n"
    write(tmp_path / "home/.gitconfig", f"[core]\n{lines}[init]\ntemplateDir = {tmp_path}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "home/.gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tmp_path / "hooks"))
    monkeypatch.setenv("GIT_DIR", str(source / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "home/index"))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path))
    write(source / "d/one", "changed\n")
    there = await desk.lay_out(checkout_of(source))
    assert (there / "README").read_bytes() == b"hello\n"
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "home/index").exists()


async def test_malicious_deletions(desk: Desk, source: Path, tmp_path: Path) -> None:
    write(tmp_path / "precious/x", "precious")
    for path in (b"../precious/x", b"/etc/passwd", b".git/config", b"d/../../precious/x"):
        made = checkout_of(source)
        made.add("deleted/0", path + b"\0")
        assert (await refused(desk, made)).code == "MANIFEST_INVALID"
    (source / "out").symlink_to(tmp_path / "precious")
    commit(source)
    made = checkout_of(source)
    made.add("deleted/0", b"out/x\0nothing/there\0README/below\0d\0")
    there = await desk.lay_out(made)
    assert (tmp_path / "precious/x").exists()
    assert contents(there) == contents(source)


async def test_a_malicious_index(desk: Desk, source: Path) -> None:
    for line in (
        f"100644 {ONE}\t../evil",
        f"100644 {ONE}\t.git/config",
        f"100644 {ONE}\t.GIT/hooks/x",
        "rubbish",
    ):
        made = checkout_of(source)
        made.add("index/0", line.encode() + b"\0")
        assert (await refused(desk, made)).code == "GIT_FAILED"


async def test_packs_that_are_none(desk: Desk, source: Path) -> None:
    good = checkout_of(source)
    [data] = good.packs.values()
    for bad in (
        b"no pack at all",
        data[:-30],
        data[:40] + bytes(8) + data[48:],
        b"PACK\0\0\0\2\xff\xff\xff\xff" + data[12:],
    ):
        made = checkout_of(source)
        made.packs.clear()
        made.manifest["repositories"][0]["packs"] = [made.add_pack(bad)]
        error = await refused(desk, made)
        assert error.code == "GIT_FAILED"
        assert "git index-pack: " in str(error)
    other = new_repository(source.parent / "other", {"x": "1\n"})
    made = checkout_of(other)
    made.manifest["repositories"][0]["commit"] = head(source)
    assert "cannot lay out the work tree: git ls-tree" in str(await refused(desk, made))
    assert list((desk.root / "objects").glob("*/incoming/*")) == []


def number(value: int, first: int, rest: bytes = b"") -> bytes:
    """A number as packs have them: its lowest bits beside ``first``, 7 in each further byte."""
    bits = 4 if first else 7
    low, value = value & ((1 << bits) - 1), value >> bits
    return bytes([first | low | (0x80 if value else 0)]) + (number(value, 0) if value else rest)


def _back(distance: int) -> bytes:
    assert distance < 128 + 128 * 128
    return bytes([0x80 | (distance >> 7) - 1, distance & 127] if distance > 127 else [distance])


def delta_bomb(*factors: int) -> bytes:
    """A pack of a blob, and of versions of it that each have the one before so many times over."""
    size = 0xFFFF
    data = number(size, 3 << 4) + zlib.compress(bytes(size))
    last = 0
    for factor in factors:
        copies = b""
        for at in range(0, size, 0xFFFFFF):
            copies += b"\xff" + at.to_bytes(4, "little") + min(0xFFFFFF, size - at).to_bytes(3, "little")
        delta = number(size, 0) + number(size * factor, 0) + copies * factor
        entry = number(len(delta), 6 << 4) + _back(len(data) - last) + zlib.compress(delta)
        data, last, size = data + entry, len(data), size * factor
    head = b"PACK" + (2).to_bytes(4, "big") + (1 + len(factors)).to_bytes(4, "big")
    return head + data + hashlib.sha1(head + data).digest()


async def test_a_pack_whose_deltas_grow_without_end(desk: Desk, source: Path) -> None:
    """Some hundred bytes of which git would make 4 GB in memory."""
    made = checkout_of(source)
    made.packs.clear()
    made.manifest["repositories"][0]["packs"] = [made.add_pack(delta_bomb(100, 8, 75))]
    error = await refused(desk, made)
    assert error.code == "GIT_FAILED"
    assert "emory" in str(error)


async def test_packs_without_a_manifest(desk: Desk, source: Path) -> None:
    made = checkout_of(source)
    made.manifest["git"] = False
    message = made.message(desk.fetcher)
    there = await desk.obey(message)
    assert not (there / ".git").exists()


async def test_without_git_on_the_agent(tmp_path: Path, source: Path) -> None:
    error = await refused(Desk(tmp_path, with_git=False), checkout_of(source))
    assert "needs git" in str(error)


async def test_a_nested_repository_where_the_parent_has_a_link(
    desk: Desk, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (source / "out").symlink_to(tmp_path / "outside")
    commit(source)
    inner = new_repository(tmp_path / "inner", {"n": "n\n"})
    made = Checkout()
    made.repository(source)
    made.repository(inner, "out/deep", kind="nested")
    there = await desk.lay_out(made)
    assert list((tmp_path / "outside").iterdir()) == []
    assert git(there / "out/deep", "status", "--porcelain") == ""
    assert git(there, "status", "--porcelain").startswith(" D out\n")


@pytest.mark.parametrize("above", [False, True], ids=["a link to it", "a link to what it lies in"])
async def test_a_link_where_a_repository_was_laid_out(
    desk: Desk, source: Path, tmp_path: Path, above: bool
) -> None:
    """Our git would go on where the link leads: write to that repository, and run the filters it names."""
    victim = new_repository(tmp_path / "victim", {"f": "hello\n", ".gitattributes": "* filter=evil\n"})
    git(victim, "config", "filter.evil.clean", f"touch {tmp_path / 'evil'}; cat")
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    blob = git(victim, "rev-parse", "HEAD:f").strip()
    link = tarfile.TarInfo("files/sub")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path if above else victim)
    made = checkout_of(source)
    inner = {"path": "sub/victim" if above else "sub", "commit": "", "branch": "main", "kind": "nested"}
    made.manifest["repositories"].append({**inner, "intent_to_add": ["new", "deep/new"]})
    made.add("index/1", f"100644 {blob}\tf\0".encode())
    made.members.append((link, b""))
    assert "is a repository" in str(await refused(desk, made))
    assert before == {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://me:secret@x.example/a.git", "https://x.example/a.git"),
        ("https://token@x.example/a.git?access=1#f", "https://x.example/a.git"),
        ("ssh://git:secret@x.example:22/a.git", "ssh://git@x.example:22/a.git"),
        ("git@x.example:a.git", "git@x.example:a.git"),
        ("/srv/git/a.git", "/srv/git/a.git"),
        ("https://[broken/a", ""),
        ("", ""),
    ],
)
def test_an_origin_has_no_credentials(given: str, kept: str) -> None:
    assert without_credentials(given) == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_the_cache_is_not_given_to_the_user_that_runs_the_steps(tmp_path: Path, source: Path) -> None:
    desk = Desk(tmp_path, owner=(65534, 65534))
    (source / "link").symlink_to("README")
    commit(source)
    write(source / "d/one", "changed\n")
    there = await desk.lay_out(checkout_of(source))
    packs = set((there / ".git/objects/pack").iterdir())
    for path in (there, *there.rglob("*")):
        assert path.lstat().st_uid == (0 if path in packs else 65534), path
    assert all(path.stat().st_mode & 0o222 == 0 for path in packs)
    assert {path.lstat().st_uid for path in (desk.root / "objects").rglob("*")} == {0}
    assert git(there, "-c", f"safe.directory={there}", "status", "--porcelain") == " M d/one\n"
    shutil.rmtree(there)
    assert contents(await desk.lay_out(checkout_of(source))) == contents(source)
