"""A queue of records on disk: appended at its end, read from any position, dropped from its head when acknowledged.

Records are stored in segment files named after the index of their first record, each as length, CRC-32 and payload.
An incomplete last record, as a kill leaves it, is cut off when the queue is opened. Writes are not followed by fsync:
records survive a crash of the agent, but not necessarily a power failure.

The index of a record never changes. Its sequence number on the wire is `index + shift`. When the server asks for
other numbers only the shift changes, so no record is rewritten.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson
import structlog

from pilothouse.agent.errors import SpoolFull

SEGMENT_BYTES = 8 << 20
SUFFIX = ".seg"
_HEADER = struct.Struct("<II")  # bytes of payload, CRC-32 of payload

log = structlog.get_logger("agent.spool")


def frame(payload: bytes) -> bytes:
    """Encode a record. The payload must not be empty: zeros left by a power failure must not be a valid record."""
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def unframe(data: bytes, at: int = 0) -> Iterator[tuple[bytes, int]]:
    """Each complete record from offset `at` on, with its end offset; stops at the first damaged record."""
    while at + _HEADER.size <= len(data):
        size, checksum = _HEADER.unpack_from(data, at)
        payload = data[at + _HEADER.size : at + _HEADER.size + size]
        if not size or len(payload) < size or zlib.crc32(payload) != checksum:
            return
        at += _HEADER.size + size
        yield payload, at


class Segment:
    """One file of the queue. `first`: the index of its first record; `size`: bytes of valid records."""

    def __init__(self, path: Path, first: int, flags: int = 0) -> None:
        self.path = path
        self.first = first
        self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self.size = os.fstat(self.file).st_size
        self.next: Segment | None = None

    @classmethod
    def create(cls, directory: Path, first: int) -> Self:
        """Raises SpoolFull."""
        try:
            return cls(directory / f"{first:020d}{SUFFIX}", first, os.O_CREAT | os.O_TRUNC)
        except OSError as error:
            raise SpoolFull(f"cannot write to the spool: {error.strerror}") from error

    def append(self, record: bytes) -> None:
        """Append a record, or nothing if SpoolFull is raised."""
        try:
            written = os.pwrite(self.file, record, self.size)
        except OSError as error:
            raise SpoolFull(f"cannot write to the spool: {error.strerror}") from error
        if written < len(record):
            os.ftruncate(self.file, self.size)
            raise SpoolFull("cannot write to the spool: the disk is full")
        self.size += written

    def payload(self, at: int) -> bytes | None:
        """The payload at this offset; None if the record is damaged."""
        header = os.pread(self.file, _HEADER.size, at)
        if len(header) < _HEADER.size:
            return None
        size, checksum = _HEADER.unpack(header)
        if size > self.size - at:  # damaged: do not allocate an arbitrary size
            return None
        payload = os.pread(self.file, size, at + _HEADER.size)
        return payload if size and len(payload) == size and zlib.crc32(payload) == checksum else None

    def cut_torn_tail(self) -> int:
        """Truncate the file after its last complete record; returns the number of records."""
        count = good = 0
        for _, end in unframe(os.pread(self.file, self.size, 0)):
            count, good = count + 1, end
        if good < self.size:
            log.warning("spool.torn_tail", path=str(self.path), bytes=self.size - good)
            os.ftruncate(self.file, good)
            self.size = good
        return count

    def close(self) -> None:
        os.close(self.file)
        self.file = -1  # a later write must fail instead of reaching another file


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the queue: the record with this index, or the end."""

    index: int
    segment: Segment
    offset: int


@dataclass(slots=True)
class _State:
    """Written when segments are removed or the shift changes. If it is lost, records are only sent again."""

    path: Path
    head: int = 1
    shift: int = 0

    def load(self) -> None:
        try:
            kept = orjson.loads(self.path.read_bytes())
            self.head, self.shift = int(kept["head"]), int(kept["shift"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            log.warning("spool.state_unreadable", path=str(self.path))

    def save(self) -> None:
        draft = self.path.with_suffix(".new")
        try:
            draft.write_bytes(orjson.dumps({"head": self.head, "shift": self.shift}))
            draft.replace(self.path)
        except OSError as error:
            log.warning("spool.state_not_saved", path=str(self.path), reason=error.strerror)


class Spool:
    """`head`: the index of the first record that was not released; `end`: the index of the next record."""

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._state = _State(directory / "state")
        self._state.load()
        self._first, self._last, self.end = self._open()
        self._written = sum(segment.size for segment in self._segments())  # bytes, of what is on disk
        self.head = Mark(self._first.first, self._first, 0)
        self.release(self._seek(self._state.head))

    @property
    def pending(self) -> bool:
        return self.head.index < self.end

    @property
    def pending_bytes(self) -> int:
        return self._written - self.head.offset

    def seq(self, index: int) -> int:
        return index + self._state.shift

    def append(self, payload: bytes) -> int:
        """Returns the record's index. Raises SpoolFull."""
        record = frame(payload)
        if self._last.size and self._last.size + len(record) > self._segment_bytes:
            self._roll(self.end)
        self._last.append(record)
        self._written += len(record)
        self.end += 1
        return self.end - 1

    def read(self, mark: Mark) -> tuple[bytes, Mark] | None:
        """The record at the mark (or the next valid one) and the mark after it; None at the end."""
        while True:
            index, segment, offset = mark.index, mark.segment, mark.offset
            if offset < segment.size:
                payload = segment.payload(offset)
                if payload is not None:
                    return payload, Mark(index + 1, segment, offset + _HEADER.size + len(payload))
                # Only a failing disk or a power failure damages records before the tail.
                log.error("spool.damaged", path=str(segment.path), offset=offset)
                self._written -= segment.size - offset
                segment.size = offset
            if segment.next is None:
                return None
            mark = Mark(segment.next.first, segment.next, 0)

    def release(self, mark: Mark) -> None:
        """Drop all records before the mark."""
        dropped = False
        if mark.segment is self._last and mark.offset == mark.segment.size > self._segment_bytes // 8:
            with contextlib.suppress(SpoolFull):  # the segment is removed later
                self._roll(self.end)
        while mark.offset >= mark.segment.size and mark.segment.next is not None:
            mark = Mark(mark.segment.next.first, mark.segment.next, 0)
        while self._first is not mark.segment:
            dropped = True
            self._first = self._drop(self._first)
        self.head = mark
        self._state.head = mark.index
        if dropped:
            self._state.save()

    def renumber(self, seq: int) -> None:
        """Set the sequence number of the head; those of all other records follow."""
        self._state.shift = seq - self.head.index
        self._state.save()

    def skip_to_seq(self, seq: int) -> None:
        """Set the sequence number of the next record, which must be higher than the current one.

        Raises SpoolFull.
        """
        self._roll(seq - self._state.shift)
        self.end = self._last.first
        self.release(self.head)

    def close(self) -> None:
        self._state.save()
        for segment in self._segments():
            segment.close()

    def _open(self) -> tuple[Segment, Segment, int]:
        paths = sorted(path for path in self._directory.glob(f"*{SUFFIX}") if path.stem.isdigit())
        if not paths:
            fresh = Segment.create(self._directory, self._state.head)
            return fresh, fresh, fresh.first
        segments = [Segment(path, int(path.stem)) for path in paths]
        for earlier, later in itertools.pairwise(segments):
            earlier.next = later
        last = segments[-1]
        return segments[0], last, last.first + last.cut_torn_tail()

    def _seek(self, index: int) -> Mark:
        mark = self.head
        while mark.segment.next is not None and mark.segment.next.first <= index:
            mark = Mark(mark.segment.next.first, mark.segment.next, 0)
        while mark.index < index and (found := self.read(mark)) is not None:
            mark = found[1]
        return mark

    def _roll(self, first: int) -> None:
        segment = Segment.create(self._directory, first)
        if segment.path == self._last.path:  # the last segment is empty and already begins there
            segment.close()
            return
        self._last.next = segment
        self._last = segment

    def _drop(self, segment: Segment) -> Segment:
        assert segment.next is not None, "the last segment is never dropped"
        self._written -= segment.size
        segment.close()
        segment.path.unlink(missing_ok=True)
        return segment.next

    def _segments(self) -> Iterator[Segment]:
        segment: Segment | None = self._first
        while segment is not None:
            yield segment
            segment = segment.next
