"""The newest entries in memory, as a whole and by stream; pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from pilothouse.journal.model import Entry

MAX_ENTRIES = 16_384
MAX_BYTES = 64 << 20
_EVICT_STEP = 64


def _offset(entry: Entry) -> int:
    return entry.offset


class Window:
    """The newest committed entries, bounded in number and bytes, in offset order.

    It contains every entry from offset ``start`` to ``head`` (exclusive).
    """

    def __init__(self, head: int, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self.start = head
        self.head = head
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._all: deque[Entry] = deque()
        self._by_stream: dict[str, list[Entry]] = {}

    def extend(self, batch: list[Entry]) -> None:
        """Add committed entries and evict the oldest.

        If another server has committed entries in between, which are only on disk, the window is cleared
        first.
        """
        if batch[0].offset != self.head:
            self.skip(batch[0].offset)
        for entry in batch:
            self._all.append(entry)
            self._by_stream.setdefault(entry.stream, []).append(entry)
            self._bytes += entry.size
        self.head = batch[-1].offset + 1
        if len(self._all) > self._max_entries or self._bytes > self._max_bytes:
            self._evict()

    def skip(self, head: int) -> None:
        """Clear the window; entries before ``head`` are only on disk."""
        self._all.clear()
        self._by_stream.clear()
        self._bytes, self.start, self.head = 0, head, head

    def since(self, stream: str | None, offset: int, limit: int) -> list[Entry]:
        """Up to ``limit`` entries from ``offset`` on; requires ``offset >= start``."""
        if stream is None:
            skip = bisect_left(self._all, offset, key=_offset)
            stop = min(len(self._all), skip + limit)
            return [self._all[i] for i in range(skip, stop)]
        tail = self._by_stream.get(stream, [])
        at = bisect_left(tail, offset, key=_offset)
        return tail[at : at + limit]

    def _evict(self) -> None:
        touched: dict[str, int] = {}
        floor_entries = self._max_entries - _EVICT_STEP
        while self._all and (len(self._all) > floor_entries or self._bytes > self._max_bytes):
            entry = self._all.popleft()
            self._bytes -= entry.size
            touched[entry.stream] = touched.get(entry.stream, 0) + 1
        for stream, gone in touched.items():
            tail = self._by_stream[stream]
            if gone == len(tail):
                del self._by_stream[stream]
            else:
                del tail[:gone]
        self.start = self._all[0].offset if self._all else self.head
