"""The directories steps work in, one per job, below one root; and checkouts unpacked into them.

A checkout is a tar, plain or gzip. Nothing in it is trusted: it is unpacked beside the workspace and takes
its place only when whole, so a bad archive changes nothing, and nothing is written through a link.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import stat
import tarfile
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Literal

COPY_CHUNK = 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
MAX_PATH_BYTES = 2048
MAX_NAME_BYTES = 255
MAX_DEPTH = 100
STAGING = ".checkout-"  # no workspace id begins with a dot

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class WorkspaceError(Exception):
    """`code`: WORKSPACE_ID_INVALID, ARCHIVE_MISMATCH, ARCHIVE_INVALID, ARCHIVE_TOO_LARGE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    total_bytes: int = 4 * 1024**3  # of all files, unpacked
    members: int = 300_000


@dataclass(frozen=True, slots=True)
class Unpacked:
    files: int
    bytes: int


class Workspaces:
    """`owner` (uid, gid): whom the directories are given to, where steps run as another user."""

    def __init__(
        self, root: Path, owner: tuple[int, int] | None = None, limits: ArchiveLimits = ArchiveLimits()
    ) -> None:
        self._root = root
        self._owner = owner
        self._limits = limits

    def path(self, workspace_id: str) -> Path:
        """Where it is, existing or not. Raises WorkspaceError unless the id is a plain file name."""
        if _ID.fullmatch(workspace_id) is None:
            raise WorkspaceError("WORKSPACE_ID_INVALID", f"not a workspace id: {workspace_id[:140]!r}")
        return self._root / workspace_id

    async def create(self, workspace_id: str) -> Path:
        """The directory, made if need be; what is in it stays."""
        path = self.path(workspace_id)
        await asyncio.to_thread(self._make, path)
        return path

    async def fresh(self, workspace_id: str) -> Path:
        """The directory, empty."""
        path = self.path(workspace_id)
        await asyncio.to_thread(_wipe, path)
        await asyncio.to_thread(self._make, path)
        return path

    async def remove(self, workspace_id: str) -> None:
        await asyncio.to_thread(_wipe, self.path(workspace_id))

    async def existing(self) -> list[str]:
        """The ids of all workspaces on disk, sorted."""
        return await asyncio.to_thread(self._list)

    async def unpack(self, workspace_id: str, archive: Path, sha256: str, size: int) -> Unpacked:
        """Replace the workspace by the contents of the archive. Raises WorkspaceError and changes nothing
        if the archive is not the one announced (hex digest, bytes), unsafe, damaged or too large."""
        path = self.path(workspace_id)
        return await asyncio.to_thread(self._unpack, path, archive, sha256, size)

    def _make(self, path: Path) -> None:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        if self._owner:
            os.chown(path, *self._owner, follow_symlinks=False)

    def _list(self) -> list[str]:
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._root) if _ID.fullmatch(entry.name))

    def _unpack(self, path: Path, archive: Path, sha256: str, size: int) -> Unpacked:
        staging = self._root / f"{STAGING}{path.name}"
        _wipe(staging)
        self._make(staging)
        try:
            with archive.open("rb") as file:
                _verify(file, sha256, size)
                unpacking = _Unpacking(staging, self._owner, self._limits)
                unpacked = unpacking.run(file)
            _wipe(path)
            staging.rename(path)
        except BaseException:
            _wipe(staging)
            raise
        return unpacked


def _verify(file: BufferedReader, sha256: str, size: int) -> None:
    actual = os.fstat(file.fileno()).st_size
    if actual != size:
        raise WorkspaceError("ARCHIVE_MISMATCH", f"the archive has {actual} bytes, not {size}")
    if hashlib.file_digest(file, "sha256").hexdigest() != sha256.lower():
        raise WorkspaceError("ARCHIVE_MISMATCH", "the archive's SHA-256 is not the one announced")
    file.seek(0)


class _Unpacking:
    """One archive into one empty directory that nobody else writes to.

    Symbolic links are made last, so every path written before leads through real directories only. Of a
    target, `..` may only be the beginning: counted from a real directory that cannot leave the root, and
    what follows can only meet links of which the same is true.
    """

    def __init__(self, root: Path, owner: tuple[int, int] | None, limits: ArchiveLimits) -> None:
        self._root = root
        self._owner = owner
        self._limits = limits
        self._files: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}
        self._directories: set[PurePosixPath] = {PurePosixPath(".")}
        self._bytes = 0

    def run(self, file: BufferedReader) -> Unpacked:
        mode: Literal["r|gz", "r|"] = "r|gz" if file.read(2) == GZIP_MAGIC else "r|"
        file.seek(0)
        try:
            # Members are read in order and once, so neither a seek nor a second look can be misled.
            with tarfile.open(fileobj=file, mode=mode) as tar:
                self._members(tar)
        except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
            raise WorkspaceError("ARCHIVE_INVALID", f"cannot unpack the archive: {error}") from error
        for path, target in self._links.items():
            os.symlink(target, self._root / path)
            self._give(self._root / path)
        return Unpacked(len(self._files), self._bytes)

    def _members(self, tar: tarfile.TarFile) -> None:
        number = 0
        while (member := tar.next()) is not None:
            number += 1
            if number > self._limits.members:
                raise WorkspaceError("ARCHIVE_TOO_LARGE", f"over {self._limits.members} members")
            path = _inside(member.name)
            if member.isdir():
                self._directory(path)
                continue
            self._directory(path.parent)
            self._claim(path)
            if member.isreg():
                self._file(tar, member, path)
            elif member.issym():
                self._links[path] = _safe_target(path, member.linkname)
            elif member.islnk():
                self._hard_link(path, _inside(member.linkname))
            else:
                raise _invalid(f"{path} is neither file, directory nor link")

    def _claim(self, path: PurePosixPath) -> None:
        if path in self._files or path in self._links or path in self._directories:
            raise _invalid(f"{path} is there twice")

    def _directory(self, path: PurePosixPath) -> None:
        if path in self._directories:
            return
        self._directory(path.parent)
        self._claim(path)
        (self._root / path).mkdir(mode=0o755)
        self._give(self._root / path)
        self._directories.add(path)

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: PurePosixPath) -> None:
        self._bytes += member.size
        if member.size < 0 or self._bytes > self._limits.total_bytes:
            raise WorkspaceError("ARCHIVE_TOO_LARGE", f"over {self._limits.total_bytes} bytes unpacked")
        source = tar.extractfile(member)
        assert source is not None  # it is a regular file
        with source, (self._root / path).open("xb") as target:
            shutil.copyfileobj(source, target, COPY_CHUNK)
            os.fchmod(target.fileno(), 0o755 if member.mode & stat.S_IXUSR else 0o644)
        self._give(self._root / path)
        self._files.add(path)

    def _hard_link(self, path: PurePosixPath, target: PurePosixPath) -> None:
        if target not in self._files:
            raise _invalid(f"{path} is a link to {target}, which is no file before it")
        os.link(self._root / target, self._root / path, follow_symlinks=False)
        self._files.add(path)

    def _give(self, path: Path) -> None:
        if self._owner:
            os.chown(path, *self._owner, follow_symlinks=False)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _invalid(f"{name[:200]!r} leaves the workspace")
    if len(path.parts) > MAX_DEPTH or len(os.fsencode(name)) > MAX_PATH_BYTES:
        raise _invalid(f"{name[:200]!r}… is too long or too deep")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        raise _invalid(f"{name[:200]!r}… has too long a name in it")
    return path


def _safe_target(link: PurePosixPath, target: str) -> str:
    path = PurePosixPath(target)
    up = 0
    while up < len(path.parts) and path.parts[up] == "..":
        up += 1
    depth = len(link.parts) - 1
    too_long = len(os.fsencode(target)) > MAX_PATH_BYTES
    if not target or too_long or path.is_absolute() or up > depth or ".." in path.parts[up:]:
        raise _invalid(f"{link} is a link that may leave the workspace: {target[:200]!r}")
    return target


def _invalid(message: str) -> WorkspaceError:
    return WorkspaceError("ARCHIVE_INVALID", message)


def _wipe(path: Path) -> None:
    """Remove whatever is there; a link is removed, not followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        path.unlink()
        return
    try:
        shutil.rmtree(path)
    except PermissionError:  # directories made read-only, as module caches are
        _make_writable(path)
        shutil.rmtree(path)


def _make_writable(path: Path) -> None:
    path.chmod(0o700)
    for parent, names, _ in os.walk(path):
        for name in names:
            directory = Path(parent, name)
            if not directory.is_symlink():
                directory.chmod(0o700)
