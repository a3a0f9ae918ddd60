"""Malicious archives, unpacked by the agent's child process."""

from __future__ import annotations

import copy
import gzip
import io
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.agent.layout import ArchiveLimits
from pilothouse.agent.unpack import Refused, checked, is_dot_git
from pilothouse.agent.workspace import WorkspaceError
from pilothouse.workers.children import Ended
from support.layouts import Checkout, Desk, contents

Member = tuple[tarfile.TarInfo, bytes]
LIMITS = ArchiveLimits(total_bytes=5_000_000, members=60)


def file(name: str, data: bytes = b"x", mode: int = 0o644, **pax: str) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.pax_headers = len(data), mode, pax
    return info, data


def special(name: str, kind: bytes, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def link(name: str, target: str) -> Member:
    return special(name, tarfile.SYMTYPE, target)


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def header(name: bytes, kind: bytes, size: bytes, magic: bytes = b"ustar\x0000") -> bytes:
    """One header block as no library would write it; ``size`` is the field's text."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124 : 124 + len(size)] = b"0000644\0", size
    block[156:157], block[257:265] = kind, magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(text: bytes, kind: bytes = b"x", size: bytes = b"") -> bytes:
    return header(b"PaxHeader", kind, size or b"%011o\0" % len(text)) + text + bytes(-len(text) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


END = bytes(1024)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, limits=LIMITS)


async def refused(desk: Desk, archive: bytes, code: str = "ARCHIVE_INVALID") -> str:
    """Why; and nothing has changed."""
    path = await desk.workspaces.create("ws")
    (path / "before").write_text("x")
    with pytest.raises(WorkspaceError) as error:
        await desk.lay_out(archive)
    assert error.value.code == code, error.value
    assert os.listdir(path) == ["before"]
    assert sorted(os.listdir(desk.root / "work")) == [".git", "ws"]
    assert not (desk.root.parent / "evil").exists()
    return str(error.value)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("zipped", [True, False])
async def test_a_plain_archive(desk: Desk, format: int, zipped: bool) -> None:
    await desk.workspaces.create("ws")
    (desk.root / "work" / "ws" / "stale").write_text("x")
    long = "a/long/" + "n" * 90 + "/ü.txt"
    archive = tar(
        special("./", tarfile.DIRTYPE),
        special("src", tarfile.DIRTYPE),
        file("./src/main.py", b"print(1)"),
        file("bin/run", b"#!/bin/sh", 0o4777),
        file(long),
        link("src/up", "../bin/run"),
        link("dangling", "later/file"),
        link("absolute", "/usr/bin/python3"),
        link("above", "../../../.."),
        link("deep/through", "../above/etc"),
        special("hard", tarfile.LNKTYPE, "bin/run"),
        special("empty", tarfile.DIRTYPE),
        format=format,
    )
    there = await desk.lay_out(gzip.compress(archive) if zipped else archive)
    assert contents(there) == {
        "src/main.py": (b"print(1)", False),
        "bin/run": (b"#!/bin/sh", True),
        "hard": (b"#!/bin/sh", True),
        long: (b"x", False),
        "src/up": ("link", "../bin/run"),
        "dangling": ("link", "later/file"),
        "absolute": ("link", "/usr/bin/python3"),
        "above": ("link", "../../../.."),
        "deep/through": ("link", "../above/etc"),
        "empty/": None,
    }
    assert (there / "bin/run").stat().st_mode & 0o7777 == 0o755
    assert (there / "hard").samefile(there / "bin/run")


async def test_long_names_and_what_other_programs_write(desk: Desk) -> None:
    name = "d/" * 20 + "n" * 200
    git_archive = extended(record(b"comment", b"a" * 40), b"g")
    old = header(b"old-directory/", b"\0", b"00000000000\0", bytes(8))
    large = header(b"base256", b"0", b"\x80" + (3).to_bytes(11, "big")) + b"abc".ljust(512, b"\0")
    vendor = extended(record(b"SCHILY.xattr.user.x", b"y" * 300) + record(b"mtime", b"1.5"))
    archive = b"".join((git_archive, old, large, vendor, tar(file(name), link("l", "t" * 3000))))
    there = await desk.lay_out(archive)
    assert contents(there) == {
        "old-directory/": None,
        "base256": (b"abc", False),
        name: (b"x", False),
        "l": ("link", "t" * 3000),
    }
    again = await desk.lay_out(tar(file(name), link("l", "t" * 3000), format=tarfile.GNU_FORMAT), "gnu")
    assert contents(again).keys() == {name, "l"}


async def test_gzip_files_one_after_another(desk: Desk) -> None:
    data = tar(file("a", os.urandom(3_000_000)), file("b"))
    parts = [data[at : at + 700_000] for at in range(0, len(data), 700_000)]
    there = await desk.lay_out(b"".join(map(gzip.compress, parts)) + bytes(5000))
    assert contents(there).keys() == {"a", "b"}


HARMFUL: dict[str, list[Member]] = {
    "absolute": [file("/tmp/pilot-evil")],
    "dotdot": [file("a/../../evil")],
    "dotdot inside": [file("a/../evil")],
    "only dotdot": [file("..")],
    "the root itself": [file(".")],
    "empty link": [link("a", "")],
    "write through a link": [link("a", ".."), file("a/evil")],
    "write through a link, later": [file("a/evil"), link("a", "..")],
    "a directory below a link": [link("a", "/tmp"), special("a/evil", tarfile.DIRTYPE)],
    "a link below a link": [link("a", "/tmp"), link("a/b", "x")],
    "file replaces a link": [link("a", "b"), file("a")],
    "link replaces a file": [file("a"), link("a", "b")],
    "link replaces a directory": [file("a/b"), link("a", "b")],
    "directory replaces a link": [link("a", "b"), special("a", tarfile.DIRTYPE)],
    "two links": [link("a", "b"), link("./a", "c")],
    "file as a directory": [file("a"), file("a/b")],
    "directory as a file": [special("a", tarfile.DIRTYPE), file("a")],
    "file replaced by a directory": [file("a"), special("a", tarfile.DIRTYPE)],
    "file twice": [file("a"), file("./a")],
    "hard link outside": [special("a", tarfile.LNKTYPE, "../../archive")],
    "hard link absolute": [special("a", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link to a link": [link("b", "/etc/passwd"), special("c", tarfile.LNKTYPE, "b")],
    "hard link to nothing": [special("a", tarfile.LNKTYPE, "nothing")],
    "hard link to itself": [special("a", tarfile.LNKTYPE, "a")],
    "hard link to a directory": [special("d", tarfile.DIRTYPE), special("a", tarfile.LNKTYPE, "d")],
    "device": [special("a", tarfile.CHRTYPE)],
    "block device": [special("a", tarfile.BLKTYPE)],
    "pipe": [special("a", tarfile.FIFOTYPE)],
    "long name": [file("n" * 256)],
    "deep": [file("d/" * 201 + "x")],
    "git": [file(".git/config", b"[core]\n\tfsmonitor = touch evil\n")],
    "git as a file": [file("sub/.git", b"gitdir: /tmp\n")],
    "git as a link": [link(".git", "/tmp")],
    "git as a directory": [special("a/.git", tarfile.DIRTYPE)],
    "git in capitals": [file(".GIT/config")],
    "git of NTFS": [file("git~1/config")],
    "git of NTFS with a space": [file(".git /config")],
    "git of NTFS with dots": [file(".Git. . ./hooks/post-checkout")],
    "git of NTFS, a stream": [file(".git::$INDEX_ALLOCATION/config")],
    "git of HFS": [file(".g\u200cit/config")],
    "git of a submodule": [file("libs/x/.git/hooks/post-checkout", mode=0o755)],
    "sparse": [file("a", **{"GNU.sparse.major": "1", "GNU.sparse.size": "99999999999"})],
    "sparse of GNU": [special("a", tarfile.GNUTYPE_SPARSE)],
}


@pytest.mark.parametrize("members", HARMFUL.values(), ids=HARMFUL.keys())
async def test_a_malicious_archive_changes_nothing(desk: Desk, members: list[Member]) -> None:
    await refused(desk, tar(file("innocent"), *members))


IN_GNU_FORMAT = {name: members for name, members in HARMFUL.items() if name != "sparse"}


@pytest.mark.parametrize("members", IN_GNU_FORMAT.values(), ids=IN_GNU_FORMAT.keys())
async def test_a_malicious_checkout_changes_nothing(desk: Desk, members: list[Member]) -> None:
    made = Checkout(manifest={"version": 1, "git": False, "repositories": []})
    for info, data in members:
        moved = copy.copy(info)
        moved.name = f"files/{info.name}"
        made.members.append((moved, data))
    await refused(desk, made.archive)


ORDERS: dict[str, list[Member]] = {
    "unknown": [file("elsewhere/x")],
    "an index after files": [file("files/a"), file("index/0")],
    "an index twice": [file("index/0"), file("index/0")],
    "an index that is a link": [link("index/0", "/etc/passwd")],
    "an index of a strange number": [file("index/1234")],
    "another manifest": [file("manifest.json", b"{}")],
    "a hard link": [file("files/a"), special("files/b", tarfile.LNKTYPE, "files/a")],
    "a hard link to the index": [file("index/0"), special("files/b", tarfile.LNKTYPE, "index/0")],
    "files as a file": [file("files")],
}


@pytest.mark.parametrize("members", ORDERS.values(), ids=ORDERS.keys())
async def test_the_parts_of_a_checkout(desk: Desk, members: list[Member]) -> None:
    first = file("manifest.json", b'{"version": 1, "git": false, "repositories": []}')
    await refused(desk, tar(first, *members))


async def test_a_plain_tree_may_begin_with_some_other_manifest(desk: Desk) -> None:
    """Browser extensions have a manifest.json, too."""
    first = file("manifest.json", b'{"manifest_version": 3, "version": "1.0"}')
    there = await desk.lay_out(tar(first, file("popup.js"), file("files/x")))
    assert contents(there).keys() == {"manifest.json", "popup.js", "files/x"}
    there = await desk.lay_out(tar(file("manifest.json", b"[" * 100_000), file("a")), "deep")
    assert contents(there).keys() == {"manifest.json", "a"}


TOO_MUCH = {
    "many": lambda: tar(*[file(f"f{n}") for n in range(61)]),
    "many directories": lambda: tar(file("d/" * 150 + "x")),
    "large": lambda: tar(file("big", bytes(3_000_000)), file("b2", bytes(2_000_001))),
    "a bomb": lambda: gzip.compress(tar(file("big", bytes(200_000_000)))),
    "a bomb of headers": lambda: gzip.compress(extended(bytes(1)) * 200_000),
    "many long headers": lambda: gzip.compress(extended(record(b"comment", b"x" * 60_000)) * 5000),
    "a long header": lambda: extended(record(b"comment", b"x" * 70_000)) + tar(file("a")),
    "a long name of GNU": lambda: extended(b"x" * 70_000, b"L") + tar(file("a")),
    "a huge header": lambda: extended(b"", b"x", b"77777777777\0") + tar(file("a")),
    "a huge header in base 256": lambda: extended(b"", b"x", b"\x80" + b"\xff" * 11) + tar(file("a")),
    "a huge file": lambda: header(b"a", b"0", b"77777777777\0") + END,
    "a huge file in base 256": lambda: header(b"a", b"0", b"\x80" + b"\xff" * 11) + END,
    "a huge file of pax": lambda: extended(record(b"size", b"9" * 19)) + header(b"a", b"0", b"0\0") + END,
}


@pytest.mark.parametrize("archive", TOO_MUCH.values(), ids=TOO_MUCH.keys())
async def test_bounds(desk: Desk, archive: Any) -> None:
    data = archive()
    began = time.monotonic()
    await refused(desk, data, "ARCHIVE_TOO_LARGE")
    assert time.monotonic() - began < 60


DAMAGED = {
    "digits": lambda: extended(record(b"size", b"9" * 60_000)) + tar(file("a")),
    "digits for a length": lambda: extended(b"9" * 60_000 + b" a=b\n") + tar(file("a")),
    "a length of zero": lambda: extended(b"0 a=b\n") + tar(file("a")),
    "a length beyond": lambda: extended(b"99 a=b\n") + tar(file("a")),
    "a length too short": lambda: extended(b"4 path=abc\n") + tar(file("a")),
    "a negative size of pax": lambda: extended(record(b"size", b"-1")) + tar(file("a")),
    "a negative size": lambda: header(b"a", b"0", b"\xff" * 12) + END,
    "a negative header": lambda: extended(b"", b"x", b"\xff" * 12) + tar(file("a")),
    "letters for a size": lambda: header(b"a", b"0", b"0x100\0") + END,
    "a global path": lambda: extended(record(b"path", b"evil"), b"g") + tar(file("a")),
    "a wrong checksum": lambda: b"b" + tar(file("a"))[1:],
    "no archive at all": lambda: b"no archive at all" * 100,
    "nothing": lambda: b"",
    "cut off": lambda: tar(file("a", os.urandom(100_000)))[:50_000],
    "cut off at a header": lambda: tar(file("a"), file("b"))[:1024],
    "cut off, zipped": lambda: gzip.compress(tar(file("a", os.urandom(100_000))))[:50_000],
    "zipped damage": lambda: b"\x1f\x8b" + os.urandom(300),
    "rubbish after gzip": lambda: gzip.compress(tar(file("a"))[:700]) + b"rubbish" * 100,
    "only a header": lambda: extended(record(b"path", b"a")) + END,
    "a NUL in a target": lambda: extended(record(b"linkpath", b"a\0b")) + tar(link("a", "b")),
    "a NUL in a name": lambda: extended(record(b"path", b"a\0b")) + tar(file("a")),
}


@pytest.mark.parametrize("archive", DAMAGED.values(), ids=DAMAGED.keys())
async def test_damage(desk: Desk, archive: Any) -> None:
    assert "cannot unpack the archive" in await refused(desk, archive())


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=3000), st.integers(0, 2000), st.booleans())
def test_no_bytes_break_the_reader(tmp_path_factory: Any, noise: bytes, at: int, whole: bool) -> None:
    """Whatever it is, the answer is files or a refusal. In this process, which is quicker."""
    from pilothouse.agent.unpack import Source, Tar

    data = bytearray(tar(file("a/b", b"data"), link("c", "d"), file("n" * 150)))
    data[at : at + len(noise)] = noise
    reader = Tar(Source(io.BytesIO(bytes(noise if whole else data)), 10_000_000), 100)
    try:
        while member := reader.next():
            assert member.size >= 0
            checked(member.name)
            break
    except Refused:
        pass


@given(st.text(max_size=12))
def test_what_git_refuses_is_refused(name: str) -> None:
    if name.lower().rstrip(" .") in (".git", "git~1"):
        assert is_dot_git(os.fsencode(name))


@pytest.mark.parametrize(
    "name", [".gitignore", ".github", ".gitmodules", "git", "git~2", ".gitt", "a.git", ".gi t"]
)
def test_names_that_only_look_like_it(name: str) -> None:
    assert not is_dot_git(name.encode())


async def test_a_child_that_takes_too_much_is_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound of its own, whatever else was overlooked."""
    from pilothouse.agent import layout

    monkeypatch.setattr(layout, "script", lambda _: ["sh", "-c", "ulimit -t 1; while :; do :; done"])
    assert "signal" in await refused(desk, tar(file("a")))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_files_belong_to_the_user_that_runs_the_steps(tmp_path: Path) -> None:
    desk = Desk(tmp_path, owner=(65534, 65534))
    there = await desk.lay_out(tar(file("a/b"), link("a/c", "b"), special("h", tarfile.LNKTYPE, "a/b")))
    assert {path.lstat().st_uid for path in [there, *there.rglob("*")]} == {65534}


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (
            Ended(1, b"", b"Traceback\n  File x\nImportError: cannot import name 'x'\n"),
            "AGENT_BROKEN",
            "(ImportError)",
        ),
        (Ended(1, b"", b"Traceback\nMemoryError\n"), "ARCHIVE_INVALID", "takes more than it is allowed to"),
        (Ended(-9, b"", b""), "ARCHIVE_INVALID", "(signal 9)"),
        (Ended(1, b"", b""), "ARCHIVE_INVALID", "(exit code 1)"),
    ],
)
async def test_a_failing_unpacker_is_distinguished_from_a_bad_archive(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, ended: Ended, code: str, said: str
) -> None:
    async def run(*_arguments: object, **_options: object) -> Ended:
        return ended

    monkeypatch.setattr(desk.children, "run", run)
    with pytest.raises(WorkspaceError) as error:
        await desk.layout.file_operation(Path("/nowhere"), do="copy")
    assert error.value.code == code
    assert said in str(error.value)
    assert "cannot import" not in str(error.value), "it may hold names of files"
