"""The live feed: who follows which stream, and the few loader threads that serve those behind."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pilothouse.journal import store
from pilothouse.journal.errors import CursorExpired
from pilothouse.journal.model import Cursor, Entry, Sees, Selection, WireFormat
from pilothouse.journal.reader import Reader
from pilothouse.journal.window import Window
from pilothouse.storage import Database

LOADERS = 2
NOW, START = "now", "start"


class Subscription:
    """A reader that can be awaited. It holds a cursor and never a queue: not reading costs nothing here."""

    def __init__(self, feed: Feed, reader: Reader) -> None:
        self._feed = feed
        self._waiter: asyncio.Future[None] | None = None
        self.reader = reader
        self.stopped = False

    async def next(self) -> list[bytes]:
        """The next messages, as many as have piled up (bounded); ``[]`` once the stream has ended or stopped.

        May be cancelled at any time without losing anything.
        """
        while not self.reader.ended and not self.stopped:
            messages = await self.past()
            if messages:
                return messages
            if not self.reader.behind and not self.reader.ended and not self.stopped:
                await self._wait()
        return []

    async def past(self) -> list[bytes]:
        """The next messages of what has happened by now; ``[]`` once there are none (yet)."""
        reader = self.reader
        while not reader.ended and not self.stopped:
            messages = await self._feed.load(reader) if reader.behind else reader.take()
            if messages or not reader.behind:
                return messages
        return []

    def stop(self) -> None:
        """End the stream from our side, even while somebody waits for it."""
        self.stopped = True
        self._rouse()

    def wake(self, first: int) -> None:
        """Entries from offset ``first`` on may concern this reader."""
        self.reader.published(first)
        self._rouse()

    def close(self) -> None:
        """Leave the feed; always call this."""
        self._feed.leave(self)

    def _rouse(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Feed:
    """Everything that was committed, in order, to everyone who follows it. Lives on the event loop."""

    def __init__(self, database: Database, epoch: str, head: int) -> None:
        self.epoch = epoch
        self.window = Window(head)
        self._database = database
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="loader")
        self._followers: dict[str | None, set[Subscription]] = {}

    @property
    def followers(self) -> int:
        """How many subscriptions are open (a metric)."""
        return sum(len(group) for group in self._followers.values())

    def publish(self, batch: list[Entry]) -> None:
        """Take in what was just committed and wake those it concerns."""
        self.window.extend(batch)
        first_of: dict[str | None, int] = {None: batch[0].offset}
        for entry in batch:
            first_of.setdefault(entry.stream, entry.offset)
        for stream, first in first_of.items():
            for follower in self._followers.get(stream, ()):
                follower.wake(first)

    async def subscribe(
        self, selection: Selection, fmt: WireFormat, sees: Sees, *, cursor: str = START
    ) -> Subscription:
        """Follow ``selection`` from ``cursor``: a cursor's text, ``"start"`` or ``"now"``.

        Raises :class:`CursorInvalid` or :class:`CursorExpired` (decisions.md: HTTP 410, close code 4410).
        """
        position = await self._position(selection.stream, cursor)
        subscription = Subscription(self, Reader(self.window, selection, fmt, sees, position))
        self._followers.setdefault(selection.stream, set()).add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription; harmless when it has left already."""
        stream = subscription.reader.selection.stream
        group = self._followers.get(stream)
        if group is not None:
            group.discard(subscription)
            if not group:
                del self._followers[stream]

    async def load(self, reader: Reader) -> list[bytes]:
        """One page from disk after the reader's cursor."""
        head = self.window.head
        selection, offset = reader.selection, reader.position.offset

        def load() -> tuple[list[Entry], bool]:
            with self._database.read() as conn:
                return store.page(conn, selection.stream, offset, subject=selection.subject)

        page, more = await asyncio.get_running_loop().run_in_executor(self._loaders, load)
        return reader.accept(page, more, head)

    async def last_of_type(self, stream: str, type: str) -> int | None:
        """The offset of the newest entry of that type in a stream (is it over?)."""

        def read() -> int | None:
            with self._database.read() as conn:
                return store.last_of_type(conn, stream, type)

        return await asyncio.get_running_loop().run_in_executor(self._loaders, read)

    def stop_all(self) -> None:
        """End every stream (shutdown); their readers go on elsewhere from their cursors."""
        for group in list(self._followers.values()):
            for follower in list(group):
                follower.stop()

    def close(self) -> None:
        """End the loader threads."""
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def _position(self, stream: str | None, cursor: str) -> Cursor:
        if cursor == NOW:
            return Cursor(self.window.head)
        wanted = None if cursor == START else Cursor.parse(cursor, self.epoch)

        def retained() -> int:
            with self._database.read() as conn:
                return store.retained_from(conn, stream)

        oldest = await asyncio.get_running_loop().run_in_executor(self._loaders, retained)
        if wanted is None:
            return Cursor(oldest)
        if wanted.offset < oldest:
            raise CursorExpired("what followed this cursor is no longer retained; start anew")
        if wanted.offset > self.window.head:
            raise CursorExpired("this cursor lies ahead of the journal; start anew")
        return wanted
