"""File operations of a checkout in a child process, with a job on standard input (see ``children.script``).

A job is a JSON object with one of these values of ``do``:

- ``copy``: copy the files of a pristine ``tree`` that its ``index`` lists, except those in ``skip``, into ``into``;
  write the index to ``new_index`` with the stat data of the copies, so that git does not read the files again.
- ``merge``: apply ``deleted`` (pairs of a directory and a file of NUL-terminated paths), then move everything below
  ``files`` into ``into``, where files replace directories and the reverse. Each of ``repositories`` must then be a
  real directory, since git will run there. In ``indexes`` (directory, file, object format each), mark the moved files
  so that git compares their contents.
- ``chown``: only change the owner.

``merge`` and ``chown`` change the owner of everything below ``into`` to ``owner`` (uid, gid; null: no change), except
hard-linked packs, which belong to the cache.

Paths are relative to ``root``, which is private. Every directory of a path is checked: no link is followed. The
answer is ``{}`` or ``{"error"}``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pilothouse.agent.removal import remove_at
from pilothouse.agent.unpack import Refused, checked, shown

THREADS = 4
BATCH = 64  # files that a thread copies per task
FICLONE = 0x40049409
ENTRY = struct.Struct(">10I")
EXTENDED = 0x4000
HASH_SIZES = {"sha1": 20, "sha256": 32}
HASHES = {20: hashlib.sha1, 32: hashlib.sha256}
LINK, GITLINK = 0o120000, 0o160000


class Entry(NamedTuple):
    """One entry of an index; ``at``: its offset."""

    path: bytes
    mode: int
    at: int


class Index:
    """An index file of version 2 or 3, as written by the agent's git."""

    def __init__(self, data: bytes, hash_size: int) -> None:
        self._data, self._hash_size = bytearray(data), hash_size
        signature, version, count = struct.unpack_from(">4sII", data)
        if signature != b"DIRC" or version not in (2, 3):
            raise Refused("the index is of an unknown version")
        self.entries: list[Entry] = []
        at = 12
        for _ in range(count):
            mode = struct.unpack_from(">I", data, at + 24)[0]
            (flags,) = struct.unpack_from(">H", data, at + 40 + hash_size)
            name = at + 42 + hash_size + (2 if flags & EXTENDED else 0)
            end = data.index(b"\0", name)
            self.entries.append(Entry(data[name:end], mode, at))
            at += (end - at) // 8 * 8 + 8
        self._end = at

    @property
    def size(self) -> tuple[int, int]:
        """Total bytes and number of files."""
        sizes = (struct.unpack_from(">I", self._data, entry.at + 36)[0] for entry in self.entries)
        return sum(sizes), len(self.entries)

    def put(self, entry: Entry, found: os.stat_result) -> None:
        """Set the stat data of this entry."""
        seconds, nanoseconds = divmod(found.st_ctime_ns, 10**9)
        changed, parts = divmod(found.st_mtime_ns, 10**9)
        fields = (seconds, nanoseconds, changed, parts, found.st_dev, found.st_ino)
        numbers = (*fields, entry.mode, found.st_uid, found.st_gid, found.st_size)
        ENTRY.pack_into(self._data, entry.at, *(number & 0xFFFFFFFF for number in numbers))

    def forget(self, entry: Entry) -> None:
        """Clear the stat data, so that git compares the contents, even if the size differs (line ends)."""
        ENTRY.pack_into(self._data, entry.at, *(0, 0, 0, 0, 0, 0), entry.mode, *(0, 0, 0))

    def written(self) -> bytes:
        """The file's bytes; of the extensions only the cached trees, which do not depend on stat data."""
        body = bytes(self._data[: self._end])
        at, last = self._end, len(self._data) - self._hash_size
        while at < last:
            name, size = struct.unpack_from(">4sI", self._data, at)
            if name == b"TREE":
                body += bytes(self._data[at : at + 8 + size])
            at += 8 + size
        return body + HASHES[self._hash_size](body).digest()


class Copying:
    """Copies the files of a tree to a directory, relative to descriptors of both, which keeps paths short."""

    def __init__(self, source: int, target: int, owner: list[int] | None) -> None:
        self._source, self._target, self._owner = source, target, owner
        self._clones = self._ranges = True
        self._directories: set[bytes] = {b""}
        self._others: set[bytes] = set()

    def run(self, index: Index, skip: set[bytes]) -> None:
        """Copy all files, then update the index."""
        files, links = [], []
        for entry in index.entries:
            parent = os.path.dirname(entry.path)
            if checked(entry.path) != entry.path or parent in self._others or entry.path in self._directories:
                raise Refused(f"{shown(entry.path)} cannot be laid out")
            if entry.mode != GITLINK:
                self._others.add(entry.path)
            if entry.path in skip:
                continue
            self._directory(entry.path if entry.mode == GITLINK else parent)
            if entry.mode == LINK:
                links.append(entry)
            elif entry.mode != GITLINK:
                files.append(entry)
        batches = [files[at : at + BATCH] for at in range(0, len(files), BATCH)]
        with ThreadPoolExecutor(THREADS) as threads:
            for batch, found in zip(batches, threads.map(self._files, batches), strict=True):
                for entry, one in zip(batch, found, strict=True):
                    index.put(entry, one)
        for entry in links:
            index.put(entry, self._link(entry.path))

    def _directory(self, path: bytes) -> None:
        if path in self._directories:
            return
        if path in self._others:
            raise Refused(f"{shown(path)} cannot be laid out")
        self._directory(os.path.dirname(path))
        _make_directory(path, self._target)
        self._give(path)
        self._directories.add(path)

    def _files(self, batch: list[Entry]) -> list[os.stat_result]:
        return [self._file(entry) for entry in batch]

    def _file(self, entry: Entry) -> os.stat_result:
        source = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._source)
        try:
            found = os.fstat(source)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            mode = 0o755 if entry.mode & 0o100 else 0o644
            try:
                target = os.open(entry.path, flags, mode, dir_fd=self._target)
            except FileExistsError:  # written by the enclosing repository
                remove_at(entry.path, self._target)
                target = os.open(entry.path, flags, mode, dir_fd=self._target)
            try:
                self._bytes(source, target, found.st_size)
                os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
                if self._owner:
                    os.fchown(target, *self._owner)
                return os.fstat(target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _bytes(self, source: int, target: int, size: int) -> None:
        if self._clones and size:
            try:
                fcntl.ioctl(target, FICLONE, source)
                return
            except OSError:
                self._clones = False  # not supported by this file system
        while self._ranges and size:
            try:
                copied = os.copy_file_range(source, target, size)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                self._ranges = False
                break
            if not copied:
                break
            size -= copied
        while data := os.read(source, 1 << 20):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]

    def _link(self, path: bytes) -> os.stat_result:
        target = os.readlink(path, dir_fd=self._source)
        try:
            os.symlink(target, path, dir_fd=self._target)
        except FileExistsError:
            remove_at(path, self._target)
            os.symlink(target, path, dir_fd=self._target)
        self._give(path)
        return os.stat(path, dir_fd=self._target, follow_symlinks=False)

    def _give(self, path: bytes) -> None:
        if self._owner:
            os.chown(path, *self._owner, dir_fd=self._target, follow_symlinks=False)


def copy(job: dict[str, Any]) -> None:
    """``copy``: see the docstring of the module."""
    hash_size = HASH_SIZES[job["object_format"]]
    with open(job["index"], "rb") as file:
        index = Index(file.read(), hash_size)
    skip = set(_paths(job["skip"])) if job["skip"] else set()
    into = os.fsencode(job["into"])
    source, target = (os.open(path, os.O_DIRECTORY | os.O_RDONLY) for path in (job["tree"], into or b"."))
    Copying(source, target, job["owner"]).run(index, skip)
    with open(job["new_index"], "xb") as file:
        file.write(index.written())


def is_real(path: bytes) -> bool:
    """Whether the path is a directory that contains no symbolic links."""
    at = b""
    for part in path.split(b"/"):
        at = os.path.join(at, part)
        try:
            if not stat.S_ISDIR(os.lstat(at).st_mode):
                return False
        except OSError:
            return False
    return True


def make_real(root: bytes, path: bytes) -> None:
    """Create a directory below ``root`` and its parents; anything else at these paths is removed."""
    at = root
    for part in filter(None, path.split(b"/")):
        at = os.path.join(at, part)
        _make_directory(at, None)


def _make_directory(path: bytes, parent: int | None) -> None:
    try:
        os.mkdir(path, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(path, dir_fd=parent)
            os.mkdir(path, 0o755, dir_fd=parent)


def merge(job: dict[str, Any]) -> None:
    """``merge``: see the docstring of the module."""
    for directory, file in job["deleted"]:
        real: set[bytes] = {b""}
        for path in _paths(file):
            delete(os.path.join(os.fsencode(directory), path), real)
    moved = move(os.fsencode(job["files"]), os.fsencode(job["into"]) or b".") if job["files"] else set()
    for directory in map(os.fsencode, job["repositories"]):
        if not is_real(os.path.join(directory, b".git")):
            raise Refused(f"{shown(directory)} is a repository, and the archive has something else there")
    for directory, file, object_format in job["indexes"] if moved else ():
        _forget(os.fsencode(directory), file, HASH_SIZES[object_format], moved)


def _forget(directory: bytes, file: str, hash_size: int, moved: set[bytes]) -> None:
    """Clear the stat data of replaced files in an index."""
    with open(file, "rb") as opened:
        index = Index(opened.read(), hash_size)
    replaced = [one for one in index.entries if _within(os.path.join(directory, one.path), moved)]
    for entry in replaced:
        index.forget(entry)
    if replaced:
        with open(file, "wb") as opened:
            opened.write(index.written())


def _within(path: bytes, moved: set[bytes]) -> bool:
    while path and path not in moved:
        path = os.path.dirname(path)
    return bool(path)


def delete(path: bytes, real: set[bytes]) -> None:
    """Delete a file of the work tree and parents that are then empty. ``real``: directories known not to be links."""
    parent = os.path.dirname(path)
    at = b""
    for part in filter(None, parent.split(b"/")) if parent not in real else ():
        at = os.path.join(at, part)
        if at not in real:
            try:
                if not stat.S_ISDIR(os.lstat(at).st_mode):
                    return
            except (FileNotFoundError, NotADirectoryError):
                return
            real.add(at)
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)  # the directory of a removed submodule
        else:
            os.unlink(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    with contextlib.suppress(OSError):
        while parent:
            os.rmdir(parent)
            real.discard(parent)
            parent = os.path.dirname(parent)


def move(source: bytes, target: bytes) -> set[bytes]:
    """Move everything in one directory into the other, replacing files. Returns the new paths."""
    waiting, moved = [(source, target)], set()
    while waiting:
        source, target = waiting.pop()
        with os.scandir(source) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in names:
            old, new = os.path.join(source, name), os.path.join(target, name)
            try:
                there = stat.S_ISDIR(os.lstat(new).st_mode)
            except FileNotFoundError:
                os.rename(old, new)
                moved.add(new)
                continue
            if is_directory and there:
                waiting.append((old, new))
                continue
            if there or is_directory:
                remove_at(new, None)
            os.rename(old, new)
            moved.add(new)
    return moved


def chown(root: bytes, owner: list[int] | None) -> None:
    """Change the owner of a directory and its contents, except packs, which may be hard links to the cache."""
    if owner is None:
        return
    os.chown(root, *owner, follow_symlinks=False)
    for directory, names, files in os.walk(root):
        packs = directory.endswith(b"/.git/objects/pack")
        for name in names if packs else (*names, *files):
            path = os.path.join(directory, name)
            found = os.lstat(path)
            if [found.st_uid, found.st_gid] != owner:
                os.chown(path, *owner, follow_symlinks=False)


def _paths(file: str) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        data = opened.read()
    for path in data.split(b"\0"):
        if path:
            if checked(path) != path:
                raise Refused(f"{shown(path)} is not a plain path")
            yield path


def main() -> None:
    """Read the job, run it, print the answer."""
    job = json.load(sys.stdin)
    os.umask(0o022)
    if job.get("leisurely"):
        os.nice(10)
    try:
        os.chdir(job["root"])
        if job["do"] == "copy":
            copy(job)
        if job["do"] == "merge":
            merge(job)
        if job["do"] in ("merge", "chown"):
            chown(os.fsencode(job["into"]) or b".", job["owner"])
        answer = {}
    except Refused as refused:
        answer = {"error": str(refused)}
    except OSError as error:
        answer = {"error": f"cannot lay out {shown(_named(error))}: {error.strerror}"}
    print(json.dumps(answer))


def _named(error: OSError) -> bytes:
    return os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""


if __name__ == "__main__":
    main()
