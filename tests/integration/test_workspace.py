"""Workspaces on a real disk, and archives made to do harm."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.agent.workspace import ArchiveLimits, Unpacked, WorkspaceError, Workspaces

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, data: bytes = b"x", mode: int = 0o644) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def special(name: str, kind: bytes, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def link(name: str, target: str) -> Member:
    return special(name, tarfile.SYMTYPE, target)


class Bench:
    """Workspaces and archives for them."""

    def __init__(self, directory: Path, limits: ArchiveLimits) -> None:
        self.root = directory / "root"
        self.workspaces = Workspaces(self.root, limits=limits)
        self._archive = directory / "checkout.tar"

    def pack(self, *members: Member, gzip: bool = False) -> tuple[Path, str, int]:
        with tarfile.open(self._archive, "w:gz" if gzip else "w") as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        return self.announce(self._archive.read_bytes())

    def announce(self, data: bytes) -> tuple[Path, str, int]:
        self._archive.write_bytes(data)
        return self._archive, hashlib.sha256(data).hexdigest(), len(data)

    async def unpack(self, *members: Member, gzip: bool = False) -> Unpacked:
        return await self.workspaces.unpack("job", *self.pack(*members, gzip=gzip))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, ArchiveLimits(total_bytes=5_000_000, members=50))


async def test_the_life_of_a_workspace(bench: Bench) -> None:
    spaces = bench.workspaces
    assert await spaces.existing() == []
    path = await spaces.create("job-1")
    (path / "kept").write_text("x")
    assert await spaces.create("job-1") == path
    assert (path / "kept").exists()
    assert path.stat().st_mode & 0o777 == 0o700
    await spaces.create("job-0")
    assert await spaces.existing() == ["job-0", "job-1"]
    assert list((await spaces.fresh("job-1")).iterdir()) == []
    await spaces.remove("job-1")
    await spaces.remove("job-1")
    assert await spaces.existing() == ["job-0"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "../a", ".hidden", "a\0", "a\n", "a b", "-a", "ä", "x" * 129]
)
async def test_ids_are_plain_names(bench: Bench, name: str) -> None:
    with pytest.raises(WorkspaceError) as error:
        await bench.workspaces.create(name)
    assert error.value.code == "WORKSPACE_ID_INVALID"


@given(st.text(max_size=20))
def test_no_id_leads_out_of_the_root(name: str) -> None:
    try:
        path = Workspaces(Path("/root-of-all")).path(name)
    except WorkspaceError:
        return
    assert Path(os.path.normpath(path)).parent == Path("/root-of-all")
    assert path.name == name


async def test_removing_follows_no_link(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    path = await bench.workspaces.create("job")
    (path / "link").symlink_to(tmp_path / "outside")
    await bench.workspaces.remove("job")
    (bench.root / "job").symlink_to(tmp_path / "outside")
    await bench.workspaces.fresh("job")
    assert not (bench.root / "job").is_symlink()
    assert (tmp_path / "outside" / "precious").exists()


def test_read_only_directories_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / "root" / "job" / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "job" / "cache" / "deep" / "file").write_text("x")
    for directory in ("root/job/cache/deep", "root/job/cache", "root/job"):
        (tmp_path / directory).chmod(0o500)
    assert as_ordinary_user(tmp_path, remove_job) == 0
    assert not (tmp_path / "root" / "job").exists()


def remove_job() -> None:
    import asyncio

    asyncio.run(Workspaces(Path("root")).remove("job"))


def as_ordinary_user(directory: Path, act: Callable[[], None]) -> int:
    """The exit code of a child that does it in that directory, and not as root, whom no mode stops."""
    if os.geteuid() == 0:
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, 65534, 65534)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(directory)
            if os.geteuid() == 0:
                os.setuid(65534)
            act()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("gzip", [True, False])
async def test_a_checkout(bench: Bench, gzip: bool) -> None:
    await bench.workspaces.create("job")
    (bench.root / "job" / "stale").write_text("x")
    unpacked = await bench.unpack(
        special("src", tarfile.DIRTYPE),
        file("./src/main.py", b"print(1)"),
        file("bin/run", b"#!/bin/sh", 0o4777),
        file("a/long/" + "n" * 150 + "/ü.txt"),
        link("src/up", "../bin/run"),
        link("dangling", "later/file"),
        special("hard", tarfile.LNKTYPE, "bin/run"),
        gzip=gzip,
    )
    job = bench.root / "job"
    assert unpacked == Unpacked(files=4, bytes=18)
    assert (job / "src" / "main.py").read_bytes() == b"print(1)"
    assert (job / "src" / "up").read_bytes() == b"#!/bin/sh"
    assert (job / "hard").samefile(job / "bin" / "run")
    assert (job / "bin" / "run").stat().st_mode & 0o7777 == 0o755
    assert (job / "src" / "main.py").stat().st_mode & 0o7777 == 0o644
    assert not (job / "stale").exists()
    assert await bench.workspaces.existing() == ["job"]
    assert os.listdir(bench.root) == ["job"]


HARMFUL: dict[str, list[Member]] = {
    "absolute": [file("/tmp/pilot-evil")],
    "dotdot": [file("a/../../evil")],
    "dotdot inside": [file("a/../evil")],
    "the root itself": [file(".")],
    "absolute link": [link("a", "/etc")],
    "link above": [link("a", "..")],
    "link above by depth": [link("a/b", "../../x")],
    "link through a link": [link("d/e/a", "."), link("l", "d/e/a/../../..")],
    "empty link": [link("a", "")],
    "write through a link": [link("a", "b"), file("a/evil")],
    "file replaces a link": [link("a", "b"), file("a")],
    "link replaces a file": [file("a"), link("a", "b")],
    "link replaces a directory": [file("a/b"), link("a", "b")],
    "directory replaces a link": [link("a", "b"), special("a", tarfile.DIRTYPE)],
    "file as a directory": [file("a"), file("a/b")],
    "file twice": [file("a"), file("./a")],
    "hard link outside": [special("a", tarfile.LNKTYPE, "../../checkout.tar")],
    "hard link absolute": [special("a", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link to a link": [link("a", "b"), special("c", tarfile.LNKTYPE, "a")],
    "hard link to nothing": [special("a", tarfile.LNKTYPE, "nothing")],
    "device": [special("a", tarfile.CHRTYPE)],
    "pipe": [special("a", tarfile.FIFOTYPE)],
    "long name": [file("n" * 256)],
    "deep": [file("d/" * 101 + "x")],
}


@pytest.mark.parametrize("members", HARMFUL.values(), ids=HARMFUL.keys())
async def test_a_harmful_archive_changes_nothing(bench: Bench, tmp_path: Path, members: list[Member]) -> None:
    await bench.workspaces.create("job")
    (bench.root / "job" / "before").write_text("x")
    with pytest.raises(WorkspaceError) as error:
        await bench.unpack(file("innocent"), *members)
    assert error.value.code == "ARCHIVE_INVALID"
    assert os.listdir(bench.root) == ["job"]
    assert os.listdir(bench.root / "job") == ["before"]
    assert sorted(os.listdir(tmp_path)) == ["checkout.tar", "root"]


async def test_bounds(bench: Bench) -> None:
    for members in (
        [file(f"f{n}") for n in range(51)],
        [file("big", bytes(3_000_000)), file("b2", bytes(2_000_001))],
    ):
        with pytest.raises(WorkspaceError) as error:
            await bench.unpack(*members, gzip=True)
        assert error.value.code == "ARCHIVE_TOO_LARGE"


async def test_only_the_archive_announced(bench: Bench) -> None:
    archive, digest, size = bench.pack(file("a"))
    for wrong in ((archive, digest, size + 1), (archive, "0" * 64, size)):
        with pytest.raises(WorkspaceError) as error:
            await bench.workspaces.unpack("job", *wrong)
        assert error.value.code == "ARCHIVE_MISMATCH"
    await bench.workspaces.unpack("job", archive, digest.upper(), size)


@pytest.mark.parametrize("gzip", [True, False])
async def test_a_damaged_archive(bench: Bench, gzip: bool) -> None:
    whole = bench.pack(file("a", os.urandom(100_000)), gzip=gzip)[0].read_bytes()
    for damaged in (whole[:50_000], b"\x1f\x8b" + whole[2:300], b"no archive at all", b""):
        with pytest.raises(WorkspaceError) as error:
            await bench.workspaces.unpack("job", *bench.announce(damaged))
        assert error.value.code == "ARCHIVE_INVALID"
    assert os.listdir(bench.root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_files_belong_to_the_user_that_runs_the_steps(bench: Bench) -> None:
    spaces = Workspaces(bench.root, owner=(65534, 65534))
    await spaces.unpack("job", *bench.pack(file("a/b"), link("a/c", "b")))
    assert {path.lstat().st_uid for path in [bench.root / "job", *bench.root.rglob("*")]} == {65534}
    assert (await spaces.fresh("job")).stat().st_uid == 65534
