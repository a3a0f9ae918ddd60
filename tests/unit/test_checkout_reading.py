"""What is read of an index, and what is packed of a history, in a few small repositories; each result as a whole."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pilothouse.cli.checkout.errors import PackingError
from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.history import History, read_history
from pilothouse.cli.checkout.index import IndexEntries, _is_same, blob_sizes, index_digest, look, read_index
from pilothouse.cli.checkout.known import KnownCommit
from pilothouse.cli.checkout.objects import pack_commits, pack_loose
from pilothouse.cli.checkout.settings import read_settings
from support.checkout_kit import commit, git
from support.checkout_states import write

LARGE = 1 << 30


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with seven files of one to seven bytes; ``g`` is executable."""
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for size, name in enumerate("abcdefg", 1):
        write(root, name, "x" * size)
    (root / "g").chmod(0o755)
    commit(root)
    return root


def blob(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest().encode()


# -- the index ------------------------------------------------------------------------------------------------------


def entries_of(root: Path) -> dict[str, Any]:
    """All that is read of the index but the digest, without what is empty."""
    real = Git(root)
    settings = read_settings(real)
    found = read_index(real, settings)
    assert found.digest == index_digest(real, settings)
    values = {each.name: getattr(found, each.name) for each in fields(IndexEntries) if each.name != "digest"}
    values["largest"] = sorted(values["largest"])
    assert values.pop("empty_blob") == blob(b"")
    return {name: value for name, value in values.items() if value}


LARGEST = [(3, b"c"), (4, b"d"), (5, b"e"), (6, b"f"), (7, b"g")]


def test_an_index_of_what_is_there(root: Path) -> None:
    assert entries_of(root) == {"size": 28, "largest": LARGEST}
    write(root, "a", "y" * 5)  # no larger than what there is of five bytes
    assert entries_of(root) == {
        "size": 32,
        "largest": [(4, b"d"), *sorted([(5, b"a"), (5, b"e")]), *LARGEST[3:]],
    }
    (root / "a").unlink()
    (root / "b").unlink()
    (root / "b").mkdir()
    assert entries_of(root) == {"size": 25, "largest": LARGEST}


def test_the_largest_files_of_equal_size_are_the_first(root: Path) -> None:
    write(root, "zz", "xxx")
    git(root, "add", "zz")
    assert entries_of(root) == {"size": 31, "largest": LARGEST}
    write(root, "z", "xxxx")
    git(root, "add", "z")
    assert entries_of(root) == {"size": 35, "largest": [(4, b"d"), (4, b"z"), *LARGEST[2:]]}


def test_a_name_with_a_tab(root: Path) -> None:
    write(root, "tab\there", "12345678")
    git(root, "add", "-A")
    assert entries_of(root) == {"size": 36, "largest": [*LARGEST[1:], (8, b"tab\there")]}


def test_the_digest_is_that_of_all_entries(root: Path) -> None:
    real = Git(root)
    settings = read_settings(real)
    before = index_digest(real, settings)
    assert read_index(real, settings).digest == before
    git(root, "update-index", "--assume-unchanged", "a")
    flagged = index_digest(real, settings)
    assert flagged != before
    git(root, "update-index", "--no-assume-unchanged", "a")
    assert index_digest(real, settings) == before
    write(root, "a", "z")
    git(root, "add", "a")
    assert index_digest(real, settings) not in (before, flagged)
    assert index_digest(real, settings) == read_index(real, settings).digest


def test_files_that_git_takes_for_unchanged(root: Path) -> None:
    """Their content travels if it is not that of the index."""
    git(root, "update-index", "--assume-unchanged", "a", "b", "c", "g")
    flags = {"assume_unchanged": [b"a", b"b", b"c", b"g"]}
    assert entries_of(root) == {"size": 28, "largest": LARGEST, **flags}
    write(root, "a", "y")  # of the same size
    assert entries_of(root) == {
        **{"size": 28, "largest": LARGEST, **flags},
        **{"unseen": {b"a": b""}, "changed": True},
    }
    write(root, "a", "x")
    write(root, "b", "xxx")
    (root / "c").unlink()
    (root / "c").symlink_to("xxx")  # the same three bytes, but a link
    (root / "g").chmod(0o644)
    found = entries_of(root)
    assert (found["unseen"], found["changed"]) == ({b"b": b"", b"c": b"", b"g": b""}, True)
    git(root, "config", "core.fileMode", "false")
    found = entries_of(root)
    assert found["unseen"] == {b"b": b"100644", b"c": b"100644"}, "modes are those of the index"


def test_files_that_are_to_be_left_alone(root: Path) -> None:
    """The content of one that is there travels in any case: nothing is laid out for it elsewhere."""
    git(root, "update-index", "--skip-worktree", "a", "b", "c", "d")
    git(root, "update-index", "--assume-unchanged", "b")
    (root / "c").unlink()
    (root / "d").unlink()
    (root / "d").mkdir()
    assert entries_of(root) == {
        "size": 21,
        "largest": [(1, b"a"), (2, b"b"), (5, b"e"), (6, b"f"), (7, b"g")],
        "skip_worktree": dict.fromkeys([b"a", b"b", b"c", b"d"]),
        "assume_unchanged": [b"b"],
        "unseen": {b"a": b"", b"b": b""},
        "covered": [b"d"],
    }
    write(root, "b", "yy")
    assert not entries_of(root).get("changed"), "that it is to be left alone is stronger"


def test_files_that_are_gone_though_git_takes_them_for_unchanged(root: Path) -> None:
    git(root, "update-index", "--assume-unchanged", "a", "b")
    (root / "a").unlink()
    (root / "b").unlink()
    (root / "b").mkdir()
    assert entries_of(root) == {
        "size": 25,
        "largest": LARGEST,
        "assume_unchanged": [b"a", b"b"],
        "missing": [b"a", b"b"],
        "covered": [b"b"],
        "changed": True,
    }


def test_links_that_git_takes_for_unchanged(root: Path) -> None:
    (root / "link").symlink_to("a")
    (root / "other").symlink_to("b")
    commit(root)
    git(root, "update-index", "--assume-unchanged", "link", "other")
    assert entries_of(root).get("unseen") is None
    (root / "other").unlink()
    (root / "other").symlink_to("c")
    assert entries_of(root)["unseen"] == {b"other": b""}
    os.mkfifo(root / "pipe")
    (root / "link").unlink()
    (root / "pipe").rename(root / "link")
    assert entries_of(root)["unseen"] == {b"link": b"", b"other": b""}


def test_submodules_that_are_there(root: Path) -> None:
    head = git(root, "rev-parse", "HEAD").decode().strip()
    for name in ("here", "empty", "gone", "file"):
        git(root, "update-index", "--add", "--cacheinfo", f"160000,{head},{name}")
    for name in ("here", "empty"):
        (root / name).mkdir()
    (root / "here/.git").write_text("gitdir: elsewhere")
    (root / "file").write_text("no directory")
    assert entries_of(root) == {"size": 28, "largest": LARGEST, "populated": [b"here"]}
    git(root, "update-index", "--force-remove", "here")
    stages = "".join(f"160000 {head} {stage}\there\n" for stage in (1, 2, 3))
    git(root, "update-index", "--index-info", input=stages.encode())
    assert entries_of(root)["populated"] == [b"here"], "once, though it is in a conflict"


def test_a_sparse_index(root: Path) -> None:
    for name in ("d1/x", "d1/sub/y", "d2/z"):
        write(root, name, "12")
    commit(root)
    git(root, "sparse-checkout", "set", "--cone", "--sparse-index", "d2")
    found = entries_of(root)
    assert found["skip_worktree"] == dict.fromkeys([b"d1/sub/y", b"d1/x"])
    assert found["size"] == 30


def test_a_filter_that_is_not_run(root: Path) -> None:
    git(root, "config", "filter.up.clean", "tr a-z A-Z")
    write(root, ".gitattributes", "a filter=up\nb filter=other\n")
    git(root, "add", ".gitattributes")
    assert entries_of(root).get("unseen") is None
    write(root, "a", "q")
    found = entries_of(root)
    assert (found["filtered"], found["unseen"]) == ({b"a"}, {b"a": b""})
    assert not found.get("changed"), "git has not taken it for unchanged"


def test_line_ends_that_a_checkout_would_not_give(root: Path) -> None:
    write(root, ".gitattributes", "*.txt text\n")
    (root / "t.txt").write_bytes(b"one\n")
    (root / "u.txt").write_bytes(b"one\r\n")
    commit(root)
    git(root, "config", "core.eol", "crlf")
    assert entries_of(root)["unseen"] == {b"t.txt": b""}
    git(root, "config", "core.fileMode", "false")
    assert entries_of(root)["unseen"] == {b"t.txt": b"100644"}


def test_the_sizes_of_objects(root: Path) -> None:
    real = Git(root)
    missing = b"0" * 39 + b"1"
    found = blob_sizes(real, [blob(b"x"), blob(b"xx"), missing])
    assert found == {blob(b"x"): 1, blob(b"xx"): 2}
    assert blob_sizes(real, []) == {}


def test_what_is_at_a_path(root: Path) -> None:
    top = os.fsencode(root)
    found = look(top + b"/c")
    assert found is not None
    assert found.st_size == 3
    assert look(top + b"/nothing") is None
    assert look(top + b"/a/below") is None
    os.symlink("loop", top + b"/loop")
    assert look(top + b"/loop/x") is None
    with pytest.raises(PackingError) as caught:
        look(top + b"/" + b"n" * 300)
    assert str(caught.value) == f"cannot read {root}/{'n' * 300}: File name too long"


def test_a_file_that_is_gone_while_it_is_compared(root: Path) -> None:
    real = Git(root)
    with pytest.raises(PackingError) as caught:
        _is_same(real, read_settings(real), b"gone", b"100644", blob(b"x"), 1)
    assert str(caught.value) == f"cannot read {root}/gone: No such file or directory"


# -- packs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[str]]:
    """Four commits, the newest last; each adds a file of its own name, and the third deletes that of the first."""
    root = tmp_path / "history"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    made = []
    for number in range(4):
        write(root, f"f{number}", f"content {number}")
        if number == 2:
            (root / "f0").unlink()
        made.append(commit(root, f"commit {number}"))
    return root, made


def packed(pack: Any, root: Path) -> set[str]:
    """The files' contents and the messages of commits in a pack."""
    data = pack.file.read_bytes()
    assert (pack.sha256, pack.size) == (hashlib.sha256(data).hexdigest(), len(data))
    names = []
    index = pack.file.with_suffix(".idx")
    git(root, "index-pack", "-o", str(index), str(pack.file))
    for line in git(root, "verify-pack", "-v", str(index)).decode().splitlines():
        words = line.split()
        if len(words) > 3 and words[1] in ("commit", "blob", "tag"):
            names.append(
                git(root, "cat-file", words[1], words[0]).decode().split("\n")[-1 - (words[1] != "blob")]
            )
    assert len(names) == len(set(names)), "no object is in it twice"
    return set(names)


@pytest.mark.parametrize(
    ("depth", "base", "expected"),
    [
        (0, None, ["commit 0", "commit 1", "commit 2", "commit 3", *(f"content {n}" for n in range(4))]),
        (1, None, ["commit 3", "content 1", "content 2", "content 3"]),
        (2, None, ["commit 2", "commit 3", "content 1", "content 2", "content 3"]),
        # The base has all of its history, or only its own commit, or two of it.
        (0, (1, 0), ["commit 2", "commit 3", "content 2", "content 3"]),
        (0, (1, 1), ["commit 0", "commit 1", "commit 2", "commit 3", "content 2", "content 3"]),
        (1, (1, 1), ["commit 3", "content 2", "content 3"]),
        (2, (2, 1), ["commit 3", "content 3"]),
        (3, (2, 2), ["commit 3", "content 3"]),
        (4, (2, 2), ["commit 0", "commit 3", "content 0", "content 3"]),
        (2, (3, 2), None),
        (1, (3, 0), None),
        (0, (3, 0), None),
    ],
)
def test_what_is_packed_of_a_history(
    history: tuple[Path, list[str]],
    tmp_path: Path,
    depth: int,
    base: tuple[int, int] | None,
    expected: list[str] | None,
) -> None:
    root, made = history
    real = Git(root)
    known = KnownCommit(made[base[0]], base[1], ()) if base is not None else None
    pack = pack_commits(
        real, made[3], read_history(real, made[3], depth), known, tmp_path / "pack.pack", LARGE
    )
    assert pack is None if expected is None else packed(pack, root) == set(expected)


def test_a_history_of_which_the_base_has_every_commit(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Though not so deep: what is asked for is what it has."""
    root, made = history
    limited = History(9, {made[3]: (made[2],)})
    base = KnownCommit(made[3], 1, ())
    assert pack_commits(Git(root), made[3], limited, base, tmp_path / "p.pack", LARGE) is None


def test_a_commit_of_the_past_of_the_base(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, made = history
    base = KnownCommit(made[3], 0, ())
    assert pack_commits(Git(root), made[1], History(0, None), base, tmp_path / "p.pack", LARGE) is None


def test_a_pack_is_bounded_to_the_byte(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, made = history
    real = Git(root)

    def pack(limit: int) -> Any:
        return pack_commits(real, made[3], History(0, None), None, tmp_path / "p.pack", limit)

    size = pack(LARGE).size
    assert pack(size).size == size
    with pytest.raises(OverflowError):
        pack(size - 1)


def test_loose_objects_are_those_that_the_commit_does_not_have(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, made = history
    real = Git(root)
    write(root, "new", "new content")
    staged = git(root, "hash-object", "-w", "new").decode().strip()
    there = git(root, "rev-parse", "HEAD:f3").decode().strip()
    git(root, "tag", "-a", "-m", "tagged", "v1", made[0])
    tag = git(root, "rev-parse", "v1").decode().strip()

    def pack(objects: list[str], tags: list[str], of: str = made[3]) -> Any:
        return pack_loose(real, of, objects, tags, tmp_path / "p.pack", LARGE)

    assert packed(pack([staged, there, staged], []), root) == {"new content"}
    assert packed(pack([], [tag]), root) == {"tagged"}
    assert packed(pack([staged], [tag]), root) == {"new content", "tagged"}
    assert pack([there], []) is None
    assert pack([], []) is None
    assert packed(pack([staged, there], [], of=""), root) == {"new content", "content 3"}
    write(root, "other", "other content")
    other = git(root, "hash-object", "-w", "other").decode().strip()
    assert packed(pack([staged, there, other], [tag]), root) == {"new content", "other content", "tagged"}
