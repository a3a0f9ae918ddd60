"""Unpacks a checkout's archive in a child process, with a job on standard input (see ``children.script``).

Uses the standard library and a small, strict tar reader, since ``tarfile`` reads extended headers of any length
before a limit applies. The archive is not trusted: every name is checked, files are only created (never opened if
they exist), and symbolic links are created last, so that nothing is written through them.

The job is a JSON object: ``archive`` and ``into`` (an empty directory), ``bytes`` and ``members`` (limits). The
result below ``into`` is ``tree`` (the files) and, for a checkout with a manifest (docs/checkout.md), ``meta`` with
``manifest.json``, ``index-0`` and so on. The answer is one JSON object on standard output: ``{"files", "bytes",
"manifest"}``, or ``{"code", "error"}`` with ARCHIVE_INVALID or ARCHIVE_TOO_LARGE.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import zlib
from typing import IO, Any, NamedTuple, NoReturn

BLOCK = 512
CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
MAX_EXTENDED = 64 << 10  # bytes of an extended header
MAX_EXTENDED_ALL = 64 << 20  # bytes of all extended headers
MAX_MANIFEST = 1 << 20
MAX_META = 128 << 20  # bytes of all index, deleted, skip-worktree and assume-unchanged members
MAX_PATH, MAX_NAME, MAX_DEPTH = 4000, 255, 200
MEMORY = 1 << 30  # bytes of address space
CPU = 300  # seconds

META = re.compile(rb"(index|pack|deleted|skip-worktree|assume-unchanged)/(\d{1,3})")
# Characters that HFS+ ignores in names.
IGNORABLE = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])

REGULAR, HARD, SYMBOLIC, DIRECTORY = b"0\x007", b"1", b"2", b"5"


class Refused(Exception):
    """The archive is refused. ``code``: ARCHIVE_INVALID, ARCHIVE_TOO_LARGE."""

    def __init__(self, message: str, code: str = "ARCHIVE_INVALID") -> None:
        super().__init__(message)
        self.code = code


class Member(NamedTuple):
    """One member; ``kind`` is its type flag, ``size`` the bytes of data that follow."""

    name: bytes
    kind: bytes
    size: int
    mode: int
    target: bytes


def is_dot_git(name: bytes) -> bool:
    """Whether any file system takes this name for ``.git``: other case, HFS+ ignorables, NTFS short names."""
    text = name.decode("utf-8", "surrogateescape").translate(IGNORABLE).lower()
    for spelling in (".git", "git~1"):
        if text.startswith(spelling):
            rest = text[len(spelling) :]
            ends = [rest.find(mark) for mark in (":", "\\") if mark in rest]
            return not rest[: min(ends)].strip(" .") if ends else not rest.strip(" .")
    return False


def checked(name: bytes) -> bytes:
    """A name as a path below the top directory (empty: the directory itself). Raises Refused for other paths."""
    if name.startswith(b"/") or b"\0" in name:
        raise Refused(f"{shown(name)} is not a relative path")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    path = b"/".join(parts)
    if b".." in parts:
        raise Refused(f"{shown(name)} leads outside of the checkout")
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME for part in parts):
        raise Refused(f"{shown(name)} is too long or too deep")
    if any(map(is_dot_git, parts)):
        raise Refused(f"{shown(name)}: an archive may hold nothing below .git")
    return path


def shown(name: bytes) -> str:
    """A name for use in messages."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))


class Source:
    """The bytes of the archive, decompressed if it is gzip, at most ``limit`` bytes."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._left = file, limit
        self._gzip = file.read(2) == GZIP_MAGIC
        file.seek(0)
        self._inflate = zlib.decompressobj(31)
        self._packed = b""
        self._buffer, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises Refused if the archive ends before."""
        while len(self._buffer) - self._at < size:
            more = self._more()
            if not more:
                raise Refused("the archive ends too early")
            self._left -= len(more)
            if self._left < 0:
                raise Refused("the archive unpacks to more than is allowed", "ARCHIVE_TOO_LARGE")
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        self._at += size
        return self._buffer[self._at - size : self._at]

    def _more(self) -> bytes:
        if not self._gzip:
            return self._file.read(CHUNK)
        while True:
            if self._inflate.eof:  # concatenated gzip files are one file
                rest = (self._inflate.unused_data or self._packed) + self._file.read(BLOCK)
                self._packed = rest.lstrip(b"\0")
                if not self._packed:
                    return b""
                self._inflate = zlib.decompressobj(31)
            self._packed = self._packed or self._file.read(CHUNK)
            if not self._packed:
                return b""
            try:
                data = self._inflate.decompress(self._packed, CHUNK)
            except zlib.error as error:
                raise Refused(f"cannot unpack the archive: {error}") from None
            self._packed = self._inflate.unconsumed_tail
            if data:
                return data


class Tar:
    """The members of a tar in their order: ustar, GNU long names, and of pax headers path, linkpath and size."""

    def __init__(self, source: Source, members: int) -> None:
        self._source = source
        self._headers = 4 * members
        self._extended = 0

    def next(self) -> Member | None:
        """The next member; its data must be read, and :meth:`skip` called, before the next but one."""
        name = target = size = None
        while True:
            header = self._source.read(BLOCK)
            if not header.strip(b"\0"):
                if (name, target, size) != (None, None, None):
                    raise Refused("the archive ends after an extended header")
                return None
            self._headers -= 1
            if self._headers < 0:
                raise Refused("too many headers", "ARCHIVE_TOO_LARGE")
            found = _parse(header)
            if found.kind == b"L":
                name = self._long(found)
            elif found.kind == b"K":
                target = self._long(found)
            elif found.kind in b"xX":
                records = _records(self._extension(found))
                name = records.get(b"path", name)
                target = records.get(b"linkpath", target)
                size = _decimal(records[b"size"]) if b"size" in records else size
            elif found.kind == b"g":
                if _records(self._extension(found)).keys() & {b"path", b"linkpath", b"size"}:
                    raise Refused("a global header may not name files")
            else:
                return _member(found, name, target, size)

    def skip(self, member: Member) -> None:
        """Skip the padding after a member's data."""
        self._source.read(-member.size % BLOCK)

    def _long(self, header: Member) -> bytes:
        return self._extension(header).split(b"\0", 1)[0]

    def _extension(self, header: Member) -> bytes:
        self._extended += header.size
        if header.size > MAX_EXTENDED or self._extended > MAX_EXTENDED_ALL:
            raise Refused("the archive's extended headers are too long", "ARCHIVE_TOO_LARGE")
        data = self._source.read(header.size)
        self.skip(header)
        return data


def _parse(header: bytes) -> Member:
    checksum = _number(header[148:156])
    blanked = header[:148] + b" " * 8 + header[156:]
    if checksum != sum(blanked) and checksum != sum(byte - 256 * (byte > 127) for byte in blanked):
        raise Refused("this is not a tar archive, or it is damaged")
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    target = header[157:257].split(b"\0", 1)[0]
    return Member(name, header[156:157], _number(header[124:136]), _number(header[100:108]), target)


def _member(found: Member, name: bytes | None, target: bytes | None, size: int | None) -> Member:
    made = Member(
        found.name if name is None else name,
        found.kind,
        found.size if size is None else size,
        found.mode,
        found.target if target is None else target,
    )
    if made.kind in REGULAR and not made.name.endswith(b"/"):
        return made
    if made.kind in REGULAR and not made.size:  # directories in the oldest tar format
        return made._replace(kind=DIRECTORY)
    if made.kind not in (HARD, SYMBOLIC, DIRECTORY):
        raise Refused(f"{shown(made.name)} is neither file, directory nor link")
    return made._replace(size=0)


def _number(field: bytes) -> int:
    """Octal digits, or a large number in base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not re.fullmatch(rb"[0-7]{1,12}", digits):
        raise Refused("a header has a bad number, or the archive is damaged")
    return int(digits, 8)


def _decimal(digits: bytes) -> int:
    if not re.fullmatch(rb"\d{1,19}", digits):
        raise Refused("a header has a bad size")
    return int(digits)


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header, ``<length> <key>=<value>\\n`` each, other keys are ignored."""
    kept: dict[bytes, bytes] = {}
    data = data.rstrip(b"\0")
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        digits = data[at:space]
        if space < 0 or not re.fullmatch(rb"\d{1,6}", digits):
            raise Refused("a bad extended header")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space + 1 or end > len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise Refused("a bad extended header")
        if key.startswith(b"GNU.sparse."):
            raise Refused("sparse files are not supported")
        if key in (b"path", b"linkpath", b"size"):
            kept[key] = value
        at = end
    return kept


class Unpacking:
    """Unpacks one archive into the current directory, which is empty and private."""

    def __init__(self, source: Source, limit: int, members: int) -> None:
        self._source, self._tar = source, Tar(source, members)
        self._bytes_left, self._members_left, self._meta_left = limit, members, MAX_META
        self._links: list[tuple[bytes, bytes]] = []
        self._manifest = self._in_files = False
        self._meta: set[bytes] = set()
        self.files = self.bytes = 0

    def run(self) -> dict[str, Any]:
        """Unpack; returns the answer. Raises Refused, OSError."""
        os.mkdir(b"tree")
        os.mkdir(b"meta")
        first = self._tar.next()
        if first is not None and not self._take_manifest(first):
            self._plain(first)
        while (member := self._tar.next()) is not None:
            if self._manifest:
                self._part(member)
            else:
                self._plain(member)
        for path, target in self._links:
            try:
                os.symlink(target, path)
            except FileExistsError:
                self._twice(path)
        return {"files": self.files, "bytes": self.bytes, "manifest": self._manifest}

    def _take_manifest(self, member: Member) -> bool:
        """Whether this checkout has a manifest. Any other file of that name is part of a plain tree."""
        if member.name != b"manifest.json" or member.kind not in REGULAR or member.size > MAX_MANIFEST:
            return False
        data = self._source.read(member.size)
        self._tar.skip(member)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        self._manifest = isinstance(found, dict) and isinstance(found.get("git"), bool) and "version" in found
        self._count(member.size)
        with open(b"meta/manifest.json" if self._manifest else b"tree/manifest.json", "xb") as file:
            file.write(data)
        self.files += not self._manifest
        return True

    def _part(self, member: Member) -> None:
        name, is_file = member.name, member.kind in REGULAR
        meta = META.fullmatch(name)
        if meta and is_file:
            if self._in_files or name in self._meta:
                raise Refused(f"{shown(name)} occurs twice, or in the wrong place")
            self._meta.add(name)
            if meta[1] != b"pack":
                self._meta_left -= member.size
            if self._meta_left < 0:
                raise Refused("the checkout's index is too large", "ARCHIVE_TOO_LARGE")
            self._write(member, b"meta/%s-%d" % (meta[1], int(meta[2])))
            return
        top, slash, rest = name.partition(b"/")
        if top != b"files" or member.kind == HARD or (not slash and member.kind != DIRECTORY):
            raise Refused(f"{shown(name)} is not a part of a checkout")
        self._in_files = True
        self._plain(member._replace(name=rest))

    def _plain(self, member: Member) -> None:
        path = checked(member.name)
        if not path:
            if member.kind != DIRECTORY:
                raise Refused("the top of a checkout is a directory")
            return
        path = b"tree/" + path
        if member.kind == DIRECTORY:
            self._directory(path)
        elif member.kind in REGULAR:
            self._write(member, path)
        elif member.kind == SYMBOLIC:
            self._symbolic(path, member.target)
        else:
            self._hard(path, b"tree/" + checked(member.target))

    def _directory(self, path: bytes) -> None:
        """Create a directory and its parents. Links are not created yet, so anything else at the path is a file."""
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                self._twice(path)
        except FileNotFoundError:
            self._directory(os.path.dirname(path))
            self._directory(path)
        except NotADirectoryError:
            self._twice(path)
        else:
            self._count(0)

    def _write(self, member: Member, path: bytes) -> None:
        self._count(member.size)
        descriptor = self._new(path, 0o755 if member.mode & 0o100 else 0o644)
        with open(descriptor, "wb", buffering=0) as file:
            left = member.size
            while left:
                left -= file.write(self._source.read(min(left, CHUNK)))
        self._tar.skip(member)
        self.files += 1

    def _new(self, path: bytes, mode: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(path, flags, mode)
        except FileNotFoundError:
            self._directory(os.path.dirname(path))
            return os.open(path, flags, mode)
        except (FileExistsError, NotADirectoryError):
            self._twice(path)

    def _symbolic(self, path: bytes, target: bytes) -> None:
        if not target or b"\0" in target or len(target) > MAX_PATH:
            raise Refused(f"{shown(path)} is a link with an empty or too long target")
        self._count(0)
        self._directory(os.path.dirname(path))
        self._links.append((path, target))
        self.files += 1

    def _hard(self, path: bytes, target: bytes) -> None:
        self._count(0)
        self._directory(os.path.dirname(path))
        if not os.path.isfile(target):
            raise Refused(f"{shown(path)} is a hard link to something other than an earlier file")
        try:
            os.link(target, path, follow_symlinks=False)
        except FileExistsError:
            self._twice(path)
        self.files += 1

    def _count(self, size: int) -> None:
        self._members_left -= 1
        self._bytes_left -= size
        self.bytes += size
        if self._members_left < 0:
            raise Refused("the archive has too many files", "ARCHIVE_TOO_LARGE")
        if self._bytes_left < 0:
            raise Refused("the archive unpacks to more than is allowed", "ARCHIVE_TOO_LARGE")

    def _twice(self, path: bytes) -> NoReturn:
        raise Refused(f"{shown(path.removeprefix(b'tree/'))} occurs twice")


def unpack(job: dict[str, Any]) -> dict[str, Any]:
    """Raises Refused, OSError."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    os.umask(0o022)
    limit, members = job["bytes"], job["members"]
    with open(job["archive"], "rb") as file:
        os.chdir(job["into"])
        # Each file has a header and at most one block of padding.
        return Unpacking(Source(file, limit + MAX_EXTENDED_ALL + members * 4 * BLOCK), limit, members).run()


def main() -> None:
    """Read the job, unpack, print the answer."""
    try:
        answer = unpack(json.load(sys.stdin))
    except Refused as refused:
        answer = {"code": refused.code, "error": str(refused)}
    except MemoryError:
        answer = {"code": "ARCHIVE_TOO_LARGE", "error": "the archive takes too much memory"}
    except OSError as error:
        answer = {"code": "ARCHIVE_INVALID", "error": f"cannot unpack the archive: {error.strerror}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
