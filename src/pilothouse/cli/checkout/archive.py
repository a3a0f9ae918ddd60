"""The archive of a checkout (docs/checkout.md): a tar.gz in GNU format, whose names are bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pilothouse.cli.checkout import interrupt
from pilothouse.cli.checkout.errors import PackingError, readable
from pilothouse.cli.checkout.state import File

MAX_MANIFEST = 1 << 20
_MAX_PATH = 2040
_MAX_LINK = 2048
_REFUSED = (b".git", b"git~1")  # on some systems these lead into a repository
_LEVEL = 4  # of gzip: half the time of its default for a few percent more bytes


class ArchiveWriter:
    """Members in the order in which its methods are called.

    Raises OverflowError beyond the limits of what is written and of ``content``, the bytes of files in it.
    """

    def __init__(self, tar: tarfile.TarFile, max_content: int) -> None:
        self._tar = tar
        self._max_content = max_content
        self.files = 0
        self.content = 0

    def manifest(self, content: Mapping[str, Any]) -> None:
        """``manifest.json``, which comes first."""
        data = json.dumps(content, separators=(",", ":")).encode("ascii")
        if len(data) > MAX_MANIFEST:
            raise PackingError(
                f"the list of repositories, tags and files to be added is over {MAX_MANIFEST >> 20} MiB",
                hint="commit the files that are only intended to be added, or set `checkout: {tags: false}`",
            )
        self.data(b"manifest.json", data)

    def data(self, name: bytes, data: bytes) -> None:
        """A member of ours; left out if it is empty."""
        if data:
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))

    def copy(self, name: bytes, file: Path) -> None:
        """A member of ours, from a file."""
        with file.open("rb") as opened:
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = os.fstat(opened.fileno()).st_size
            self._tar.addfile(entry, opened)

    def directory(self, path: bytes) -> None:
        """An empty directory."""
        self._tar.addfile(_entry(_placed(path), tarfile.DIRTYPE, 0o755))

    def file(self, root: bytes, prefix: bytes, file: File) -> None:
        """A file or link of the work tree. Raises PackingError if it cannot be read, or changes meanwhile."""
        interrupt.check()
        full, name = os.path.join(root, prefix, file.path), _placed(prefix + file.path)
        try:
            if stat.S_ISLNK(os.lstat(full).st_mode):
                self._link(name, os.readlink(full))
            else:
                self._regular(full, name, file.mode)
        except OSError as error:
            raise PackingError(f"cannot read {readable(full)}: {error.strerror or error}") from None
        self.files += 1

    def _link(self, name: bytes, target: bytes) -> None:
        if len(target) > _MAX_LINK:
            raise PackingError(f"{readable(name)} is a link of over {_MAX_LINK} bytes")
        entry = _entry(name, tarfile.SYMTYPE, 0o777)
        entry.linkname = target.decode("utf-8", "surrogateescape")
        self._tar.addfile(entry)

    def _regular(self, full: bytes, name: bytes, mode: bytes) -> None:
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as opened:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise _changed(full)
            if mode == b"120000":  # a link, on a file system without links
                self._link(name, opened.read(_MAX_LINK + 1))
                return
            executable = mode == b"100755" if mode else bool(before.st_mode & stat.S_IXUSR)
            entry = _entry(name, tarfile.REGTYPE, 0o755 if executable else 0o644)
            entry.size = before.st_size
            self.content += before.st_size
            if self.content > self._max_content:
                raise OverflowError(self.content)
            try:
                self._tar.addfile(entry, opened)
            except OSError as error:
                if error.errno is None:  # it ended too early
                    raise _changed(full) from None
                raise
            after = os.fstat(descriptor)
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise _changed(full)


@contextmanager
def archive_writer(file: IO[bytes], limit: int, max_content: int) -> Iterator[tuple[ArchiveWriter, Bounded]]:
    """Writes into ``file``. The same members give the same bytes: no times, no owners."""
    sink = Bounded(file, limit)
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=sink, mtime=0, compresslevel=_LEVEL) as zipped,
        tarfile.open(
            fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        yield ArchiveWriter(tar, max_content), sink


def joined(paths: Iterable[bytes]) -> bytes:
    """A list of paths, or of lines, as members have it."""
    return b"".join(path + b"\0" for path in paths)


class Bounded(io.RawIOBase):
    """Counts and digests what is written. Raises OverflowError beyond the limit."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        super().__init__()
        self._file = file
        self._limit = limit
        self.size = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        if self.size > self._limit:
            raise OverflowError(self.size)
        self.digest.update(data)
        return self._file.write(data)


def _entry(name: bytes, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))  # owner, group and time stay zero
    entry.type, entry.mode = kind, mode
    return entry


def _placed(path: bytes) -> bytes:
    if len(path) > _MAX_PATH:
        raise PackingError(f"{readable(path[:200])}… is a path of over {_MAX_PATH} bytes")
    if any(part.lower() in _REFUSED for part in path.split(b"/")):
        raise PackingError(f"{readable(path)}: no agent takes a file of such a name", hint="rename it")
    return b"files/" + path


def _changed(path: bytes) -> PackingError:
    return PackingError(f"{readable(path)} changed while it was read", hint="try again")
