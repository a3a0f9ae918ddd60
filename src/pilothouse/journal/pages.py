"""Shared pages of old entries: many readers that resume at the same cursor load and encode a page once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pilothouse.journal.model import Entry, Selection

MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """Entries from an offset on; ``more``: there may be further ones, otherwise all below ``head`` are
    included."""

    entries: list[Entry]
    more: bool
    head: int

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return 500 + sum(entry.size for entry in self.entries)


Key = tuple[str | None, str | None, int]
"""Stream, subject and first offset."""


class Pages:
    """A cache of recently loaded pages, bounded in bytes, and of loads in progress. Lives on the event loop.

    Committed entries never change, so pages stay valid; a page that was not full only advances its reader
    less than a new one would. Whether a cursor is still retained is checked in the database when a reader
    starts.
    """

    def __init__(self, load: Callable[[Key], Awaitable[Page]], max_bytes: int = MAX_BYTES) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Key, Page] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[Page]] = {}

    async def get(self, selection: Selection, offset: int) -> Page:
        """The page from ``offset`` on. Raises the errors of loading it."""
        key = (selection.stream, selection.subject, offset)
        page = self._kept.get(key)
        if page is not None:
            self._kept.move_to_end(key)
            return page
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.ensure_future(self._fetch(key))
            task.add_done_callback(_retrieve_error)
        return await asyncio.shield(task)  # a cancelled reader must not cancel the load of the others

    async def _fetch(self, key: Key) -> Page:
        try:
            page = await self._load(key)
        finally:
            del self._loading[key]
        self._kept[key] = page
        self._bytes += page.size
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return page


def _retrieve_error(task: asyncio.Task[Page]) -> None:
    if not task.cancelled():
        task.exception()  # waiting readers get the exception; there may be none left
