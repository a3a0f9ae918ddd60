"""Pages of the past, shared: a herd that comes back to the same place reads and encodes it once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pilothouse.journal.model import Entry, Selection

MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """Entries from an offset on; ``more``: there may be more behind them, else all below ``head`` is here."""

    entries: list[Entry]
    more: bool
    head: int

    @property
    def size(self) -> int:
        """Roughly the bytes it holds."""
        return 500 + sum(entry.size for entry in self.entries)


Key = tuple[str | None, str | None, int]
"""Stream, subject and first offset."""


class Pages:
    """The pages that were loaded last, bounded in bytes, and those under way. Lives on the event loop.

    What was committed never changes, so that a page stays true; one that was not full only brings its reader less
    far than a new one would. Whether a cursor is still retained is asked of the database when a reader comes.
    """

    def __init__(self, load: Callable[[Key], Awaitable[Page]], max_bytes: int = MAX_BYTES) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Key, Page] = OrderedDict()
        self._coming: dict[Key, asyncio.Task[Page]] = {}

    async def get(self, selection: Selection, offset: int) -> Page:
        """The page from ``offset`` on. Raises what loading it raises."""
        key = (selection.stream, selection.subject, offset)
        page = self._kept.get(key)
        if page is not None:
            self._kept.move_to_end(key)
            return page
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.ensure_future(self._fetch(key))
            task.add_done_callback(_heard)
        return await asyncio.shield(task)  # one who leaves does not take it from the others

    async def _fetch(self, key: Key) -> Page:
        try:
            page = await self._load(key)
        finally:
            del self._coming[key]
        self._kept[key] = page
        self._bytes += page.size
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return page


def _heard(task: asyncio.Task[Page]) -> None:
    if not task.cancelled():
        task.exception()  # those who wait are told; there may be none left
