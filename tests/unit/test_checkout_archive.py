"""The archive and manifest of a checkout, member by member; no git is run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilothouse.cli.checkout import archive
from pilothouse.cli.checkout.archive import MAX_MANIFEST, ArchiveWriter, Bounded, archive_writer, joined
from pilothouse.cli.checkout.errors import PackingError
from pilothouse.cli.checkout.history import History
from pilothouse.cli.checkout.index import IndexEntries
from pilothouse.cli.checkout.known import NewPack, StoredPack
from pilothouse.cli.checkout.manifest import manifest, text_of
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.repository import Repository
from pilothouse.cli.checkout.settings import RepositorySettings
from pilothouse.cli.checkout.state import File, State
from pilothouse.cli.checkout.tree import Part, Place, Tree

LARGE = 1 << 30


def written(
    fill: Callable[[ArchiveWriter], None], limit: int = LARGE, content: int = LARGE
) -> tuple[bytes, ArchiveWriter, Bounded]:
    out = io.BytesIO()
    with archive_writer(out, limit, content) as (writer, sink):
        fill(writer)
    return out.getvalue(), writer, sink


def members(data: bytes) -> list[tuple[Any, ...]]:
    """Name, type, mode, size, target, times and owners, content."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        for each in tar.getmembers():
            opened = tar.extractfile(each) if each.isreg() else None
            content = opened.read() if opened else b""
            owners = (each.mtime, each.uid, each.gid, each.uname, each.gname)
            assert owners == (0, 0, 0, "", "")
            found.append(
                (os.fsencode(each.name), each.type, each.mode, each.size, os.fsencode(each.linkname), content)
            )
    return found


REGULAR, LINK, DIRECTORY = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    """A directory with a few files."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub/plain").write_bytes(b"plain")
    (top / "sub/tool").write_bytes(b"#!/bin/sh\n")
    (top / "sub/tool").chmod(0o755)
    (top / "others").write_bytes(b"")
    (top / "others").chmod(0o611)  # only others may run it
    os.symlink(b"no\xffwhere", os.fsencode(top) + b"/sub/link")
    Path(os.fsdecode(os.fsencode(top) + b"/b\xff")).write_bytes(b"bytes")
    return os.fsencode(top)


def test_members_have_no_times_nor_owners(root: bytes) -> None:
    def fill(writer: ArchiveWriter) -> None:
        writer.manifest({"version": 1, "path": text_of(b"b\xff")})
        writer.data(b"index", b"a\0b\0")
        writer.data(b"deleted", b"")
        writer.copy(b"pack", Path(os.fsdecode(root)) / "sub/plain")
        writer.directory(b"empty/dir")
        for path in (b"plain", b"tool", b"link"):
            writer.file(root, b"sub/", File(path))
        writer.file(root, b"", File(b"others"))
        writer.file(root, b"", File(b"b\xff"))

    data, writer, sink = written(fill)
    text = b'{"version":1,"path":"b\\udcff"}'
    assert members(data) == [
        (b"manifest.json", REGULAR, 0o644, len(text), b"", text),
        (b"index", REGULAR, 0o644, 4, b"", b"a\0b\0"),
        (b"pack", REGULAR, 0o644, 5, b"", b"plain"),
        (b"files/empty/dir", DIRECTORY, 0o755, 0, b"", b""),
        (b"files/sub/plain", REGULAR, 0o644, 5, b"", b"plain"),
        (b"files/sub/tool", REGULAR, 0o755, 10, b"", b"#!/bin/sh\n"),
        (b"files/sub/link", LINK, 0o777, 0, b"no\xffwhere", b""),
        (b"files/others", REGULAR, 0o644, 0, b"", b""),
        (b"files/b\xff", REGULAR, 0o644, 5, b"", b"bytes"),
    ]
    assert (writer.files, writer.content) == (5, 20)
    assert (sink.size, sink.digest.hexdigest()) == (len(data), hashlib.sha256(data).hexdigest())
    assert written(fill)[0] == data, "the same members are the same bytes"
    assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", "nor has gzip a name or time"


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        (b"sub/plain", b"100755", (REGULAR, 0o755, b"")),
        (b"sub/tool", b"100644", (REGULAR, 0o644, b"")),
        (b"sub/plain", b"120000", (LINK, 0o777, b"plain")),
        (b"sub/link", b"100644", (LINK, 0o777, b"no\xffwhere")),
    ],
)
def test_what_git_takes_a_file_for(
    root: bytes, path: bytes, mode: bytes, expected: tuple[bytes, int, bytes]
) -> None:
    data, _, _ = written(lambda writer: writer.file(root, b"", File(path, mode)))
    [(_, kind, mode_of, _, target, _)] = members(data)
    assert (kind, mode_of, target) == expected


def refused(fill: Callable[[ArchiveWriter], None]) -> tuple[str, str]:
    with pytest.raises(PackingError) as caught:
        written(fill)
    return str(caught.value), caught.value.hint


def test_paths_that_no_agent_takes(root: bytes) -> None:
    def at(path: bytes) -> tuple[str, str]:
        return refused(lambda writer: writer.directory(path))

    assert at(b"a/.git/hooks") == ("a/.git/hooks: no agent takes a file of such a name", "rename it")
    assert at(b".Git") == (".Git: no agent takes a file of such a name", "rename it")
    assert at(b"GIT~1/x") == ("GIT~1/x: no agent takes a file of such a name", "rename it")
    assert at(b"a" * 2041) == (f"{'a' * 200}… is a path of over 2040 bytes", "")
    data, _, _ = written(lambda writer: [writer.directory(one) for one in (b"a" * 2040, b".gitx/git~2")])
    assert [member[0] for member in members(data)] == [b"files/" + b"a" * 2040, b"files/.gitx/git~2"]


def test_a_link_may_be_so_long(root: bytes) -> None:
    path = root + b"/as-file"
    for length in (2048, 2049):
        with open(path, "wb") as file:
            file.write(b"x" * length)

        def fill(writer: ArchiveWriter) -> None:
            writer.file(root, b"", File(b"as-file", b"120000"))

        if length == 2048:
            assert members(written(fill)[0])[0][4] == b"x" * 2048
        else:
            assert refused(fill) == ("files/as-file is a link of over 2048 bytes", "")


def test_files_that_cannot_be_read(root: bytes) -> None:
    def at(path: bytes) -> tuple[str, str]:
        return refused(lambda writer: writer.file(root, b"sub/", File(path)))

    top = os.fsdecode(root)
    assert at(b"gone") == (f"cannot read {top}/sub/gone: No such file or directory", "")
    assert at(b"../sub") == (f"cannot read {top}/sub/../sub: Is a directory", "")
    os.mkfifo(root + b"/sub/pipe")
    assert at(b"pipe") == (f"{top}/sub/pipe changed while it was read", "try again")


def test_a_file_that_has_become_a_link_is_not_followed(root: bytes) -> None:
    """Between the moment in which it was looked at and that in which it is opened."""
    with pytest.raises(OSError, match="symbolic links"):
        written(lambda writer: writer._regular(root + b"/sub/link", b"files/link", b""))


class Changing:
    """A tar that changes a file after it has read it, as an editor does."""

    def __init__(self, tar: Any, change: Callable[[], None]) -> None:
        self._tar = tar
        self._change = change

    def addfile(self, entry: Any, file: Any = None) -> None:
        self._tar.addfile(entry, file)
        self._change()


def test_a_file_that_changes_while_it_is_read(root: bytes) -> None:
    path = root + b"/sub/plain"
    changed = (f"{os.fsdecode(path)} changed while it was read", "try again")

    def replace_content() -> None:
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1))

    def grow() -> None:
        times = os.stat(path)
        with open(path, "ab") as file:
            file.write(b"x")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    for change in (replace_content, grow):

        def fill(writer: ArchiveWriter, change: Callable[[], None] = change) -> None:
            writer._tar = Changing(writer._tar, change)  # type: ignore[assignment]
            writer.file(root, b"sub/", File(b"plain"))

        assert refused(fill) == changed


def test_a_file_that_becomes_shorter_while_it_is_read(root: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root + b"/sub/plain"
    real = archive._entry

    def shortened(name: bytes, kind: bytes, mode: int) -> tarfile.TarInfo:
        os.truncate(path, 2)
        return real(name, kind, mode)

    monkeypatch.setattr(archive, "_entry", shortened)
    assert refused(lambda writer: writer.file(root, b"sub/", File(b"plain"))) == (
        f"{os.fsdecode(path)} changed while it was read",
        "try again",
    )


def test_a_disk_that_is_full_is_not_a_change(root: bytes) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    def fill(writer: ArchiveWriter) -> None:
        writer._tar = Changing(writer._tar, full)  # type: ignore[assignment]
        writer.file(root, b"sub/", File(b"plain"))

    assert refused(fill) == (f"cannot read {os.fsdecode(root)}/sub/plain: No space left on device", "")


def test_content_is_bounded_to_the_byte(root: bytes) -> None:
    def fill(writer: ArchiveWriter) -> None:
        writer.file(root, b"sub/", File(b"plain"))
        writer.file(root, b"sub/", File(b"tool"))

    assert written(fill, content=15)[1].content == 15
    with pytest.raises(OverflowError) as caught:
        written(fill, content=14)
    assert caught.value.args == (15,)


def test_the_archive_is_bounded_to_the_byte(root: bytes) -> None:
    def fill(writer: ArchiveWriter) -> None:
        writer.data(b"random", bytes(range(256)) * 400)

    data, _, sink = written(fill)
    assert written(fill, limit=sink.size)[0] == data
    with pytest.raises(OverflowError):
        written(fill, limit=sink.size - 1)
    assert sink.writable()


def test_the_manifest_is_bounded_to_the_byte() -> None:
    frame = len('{"a":""}')
    data, _, _ = written(lambda writer: writer.manifest({"a": "x" * (MAX_MANIFEST - frame)}))
    assert members(data)[0][3] == MAX_MANIFEST
    assert refused(lambda writer: writer.manifest({"a": "x" * (MAX_MANIFEST - frame + 1)})) == (
        "the list of repositories, tags and files to be added is over 1 MiB",
        "commit the files that are only intended to be added, or set `checkout: {tags: false}`",
    )


def test_lists_of_paths() -> None:
    assert joined([b"a", b"b\xff/c"]) == b"a\0b\xff/c\0"
    assert joined([]) == b""


# -- the manifest ---------------------------------------------------------------------------------------------------


def part(place: Place, history: History | None = None, autocrlf: str = "", **more: Any) -> Part:
    state = State(IndexEntries(b""), **more)
    repository = Repository(Path("/r"), True, "key", "name", "https://h/r", "main", "c" * 40)
    settings = RepositorySettings("sha1", True, (), autocrlf, "lf" if autocrlf else "", False)
    return Part(place, repository, settings, state, history, ())


def test_the_manifest_of_a_plain_directory() -> None:
    tree = Tree(Path("/r"), files=[File(b"a")])
    assert manifest(tree, CheckoutOptions(), [], []) == {"version": 1, "git": False, "repositories": []}


def test_the_manifest_names_each_repository() -> None:
    parts = [
        part(Place()),
        part(
            Place(b"libs/\xff", "submodule", "libs"),
            History(3, {"c" * 40: ()}, ("s" * 40,)),
            "input",
            intent_to_add=[b"new\xff"],
        ),
        part(Place(b"inner", "nested")),
    ]
    packs = [[StoredPack("b1", "aa", 1), NewPack(Path("/p"), "bb", 2)], [], [StoredPack("b2", "cc", 3)]]
    common = {
        "key": "key",
        "origin": "https://h/r",
        "commit": "c" * 40,
        "branch": "main",
        "depth": 3,
        "object_format": "sha1",
    }
    tags = [{"v1": "t" * 40}, {}, {}]
    made = manifest(Tree(Path("/r"), parts=parts), CheckoutOptions(depth=3), tags, packs)
    assert made == {
        "version": 1,
        "git": True,
        "repositories": [
            {"path": "", **common, "packs": ["aa", "bb"], "tags": {"v1": "t" * 40}},
            {
                "path": "libs/\udcff",
                **common,
                "packs": [],
                "name": "libs",
                "shallow": ["s" * 40],
                "intent_to_add": ["new\udcff"],
                "autocrlf": "input",
                "eol": "lf",
            },
            {"path": "inner", **common, "packs": ["cc"], "kind": "nested"},
        ],
    }
    assert json.loads(json.dumps(made)) == made
    with pytest.raises(ValueError, match="zip"):
        manifest(Tree(Path("/r"), parts=parts), CheckoutOptions(), tags[:2], packs)
