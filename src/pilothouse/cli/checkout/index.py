"""The entries of an index: their sizes and flags, and which files ``git status`` cannot be asked about."""

from __future__ import annotations

import errno
import hashlib
import heapq
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from pilothouse.cli.checkout.errors import PackingError, readable
from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.settings import RepositorySettings, converted_paths, other_line_ends

_LARGEST = 5
_FLAGS_AND_STAGES = ("-v", "-s")
_CHUNK = 1 << 20


@dataclass(slots=True)
class IndexEntries:
    """``size``: bytes of the tracked files that are there; ``largest``: size and path of a few of them.

    ``unseen``: files whose content must travel although git takes them for unchanged, and their modes as in
    :class:`File`; ``missing``: entries that git takes for unchanged, but whose file is gone; ``changed``: among both
    are some that do differ from the index. ``covered``: entries of both kinds with a directory in their place, of
    which git says nothing. ``populated``: submodules that have a
    repository. ``filtered``: files that a filter may have converted, which is not run. ``digest``: of all entries.
    """

    empty_blob: bytes
    size: int = 0
    largest: list[tuple[int, bytes]] = field(default_factory=list)
    skip_worktree: dict[bytes, None] = field(default_factory=dict)
    assume_unchanged: list[bytes] = field(default_factory=list)
    populated: list[bytes] = field(default_factory=list)
    unseen: dict[bytes, bytes] = field(default_factory=dict)
    missing: list[bytes] = field(default_factory=list)
    covered: list[bytes] = field(default_factory=list)
    changed: bool = False
    filtered: set[bytes] = field(default_factory=set)
    digest: str = ""


def read_index(git: Git, settings: RepositorySettings) -> IndexEntries:
    """All entries of git's index."""
    entries = IndexEntries(_blob_id(settings.object_format, [b""], 0))
    converted = entries.filtered = converted_paths(git, settings)
    other = other_line_ends(git, settings)
    root = os.fsencode(git.directory) + b"/"
    doubtful: dict[bytes, tuple[bytes, bytes]] = {}
    digest = hashlib.sha256()
    for record in git.records(*settings.listing, *_FLAGS_AND_STAGES):
        digest.update(record)
        head, _, path = record.partition(b"\t")
        tag, mode, oid, stage = head.split(b" ")
        found = look(root + path)
        if mode == b"160000":
            _submodule(entries, root, path, found)
            continue
        if mode == b"040000":  # of a sparse index: all of a directory that is not there
            within = git.records("ls-tree", "-r", "-z", "--name-only", oid.decode())
            entries.skip_worktree.update(dict.fromkeys(path + each for each in within))
            continue
        if tag in b"Ss":
            entries.skip_worktree[path] = None
        if tag.islower():
            entries.assume_unchanged.append(path)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            _count(entries, found.st_size, path)
            if path in other:
                entries.unseen[path] = b"" if settings.file_mode else mode
            elif tag in b"hSs" or (path in converted and stage == b"0"):
                doubtful[path] = (mode, oid)
        else:
            if tag in b"hSs" and found is not None:
                entries.covered.append(path)
            if tag == b"h":
                entries.missing.append(path)
                entries.changed = True
    entries.digest = digest.hexdigest()
    _judge(git, settings, entries, doubtful)
    return entries


def index_digest(git: Git, settings: RepositorySettings) -> str:
    """The ``digest`` that :func:`read_index` would give now."""
    digest = hashlib.sha256()
    for record in git.records(*settings.listing, *_FLAGS_AND_STAGES):
        digest.update(record)
    return digest.hexdigest()


def _submodule(entries: IndexEntries, root: bytes, path: bytes, found: os.stat_result | None) -> None:
    if path in entries.populated[-1:]:
        return  # another stage of a conflict
    if found is not None and stat.S_ISDIR(found.st_mode) and look(root + path + b"/.git") is not None:
        entries.populated.append(path)


def _count(entries: IndexEntries, size: int, path: bytes) -> None:
    entries.size += size
    if len(entries.largest) < _LARGEST:
        heapq.heappush(entries.largest, (size, path))
    elif size > entries.largest[0][0]:
        heapq.heapreplace(entries.largest, (size, path))


def _judge(
    git: Git,
    settings: RepositorySettings,
    entries: IndexEntries,
    doubtful: dict[bytes, tuple[bytes, bytes]],
) -> None:
    """Which of the doubtful files are not what a checkout elsewhere would have."""
    sizes = blob_sizes(git, {oid for _mode, oid in doubtful.values()})
    flagged = set(entries.assume_unchanged).difference(entries.skip_worktree)  # the stronger of the two
    for path, (mode, oid) in doubtful.items():
        # Elsewhere nothing is laid out for a path with this flag, so its file always travels.
        same = _is_same(git, settings, path, mode, oid, sizes.get(oid, -1))
        if not same or path in entries.skip_worktree:
            entries.unseen[path] = b"" if settings.file_mode else mode
            entries.changed = entries.changed or (not same and path in flagged)


def blob_sizes(git: Git, oids: Iterable[bytes]) -> dict[bytes, int]:
    """Bytes of each blob; what is no object is left out."""
    lines = git.records(
        "cat-file",
        "--batch-check=%(objectname) %(objectsize)",
        input=(oid + b"\n" for oid in oids),
        end=b"\n",
    )
    return {oid: int(size) for oid, size in (line.split(b" ") for line in lines) if size.isdigit()}


def _is_same(git: Git, settings: RepositorySettings, path: bytes, mode: bytes, oid: bytes, size: int) -> bool:
    full = os.fsencode(git.directory) + b"/" + path
    try:
        found = os.lstat(full)
        if found.st_size != size:
            return False
        if stat.S_ISLNK(found.st_mode):
            return mode == b"120000" and _blob_id(settings.object_format, [os.readlink(full)], size) == oid
        executable = b"100755" if found.st_mode & stat.S_IXUSR else b"100644"
        if not stat.S_ISREG(found.st_mode) or (settings.file_mode and mode != executable):
            return False
        with open(full, "rb") as file:
            return _blob_id(settings.object_format, iter(lambda: file.read(_CHUNK), b""), size) == oid
    except OSError as error:
        raise PackingError(f"cannot read {readable(full)}: {error.strerror}") from None


def _blob_id(object_format: str, parts: Iterable[bytes], size: int) -> bytes:
    digest = hashlib.new(object_format, b"blob %d\0" % size, usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.hexdigest().encode()


def look(path: bytes) -> os.stat_result | None:
    """What is at a path, links not followed; ``None``: nothing. Raises PackingError if that cannot be said."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a directory became a link that leads to itself
            return None
        raise PackingError(f"cannot read {readable(path)}: {error.strerror}") from None
