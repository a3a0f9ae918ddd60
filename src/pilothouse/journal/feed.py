"""The live feed: who follows which stream, and the few loader threads that serve those behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from sqlalchemy import Connection as Connected

from pilothouse.journal import store
from pilothouse.journal.errors import CursorExpired
from pilothouse.journal.model import Cursor, Entry, Sees, Selection, WireFormat
from pilothouse.journal.outlet import Channel, Connection, Outlet
from pilothouse.journal.pages import Key, Page, Pages
from pilothouse.journal.pulse import STEP, Pulse
from pilothouse.journal.reader import Reader
from pilothouse.journal.window import Window
from pilothouse.storage import Database

log = structlog.get_logger("feed")
T = TypeVar("T")

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
            if self.reader.live and not self.stopped:
                await self._wait()
        return []

    async def past(self) -> list[bytes]:
        """The next messages of what has happened by now; ``[]`` once there are none (yet)."""
        reader = self.reader
        while not reader.ended and not self.stopped:
            messages = await self._feed.load(reader) if reader.behind else reader.take()
            if messages or reader.live:
                return messages
        return []

    def stop(self) -> None:
        """End the stream from our side, even while somebody waits for it."""
        self.stopped = True
        self.rouse()

    def wake(self, first: int) -> None:
        """Entries from offset ``first`` on may concern this reader."""
        self.reader.published(first)
        self.rouse()

    def close(self) -> None:
        """Leave the feed; always call this."""
        self._feed.leave(self)

    def rouse(self) -> None:
        """Whoever waits for messages looks again."""
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
        self._followers: dict[str | None, set[Subscription | Outlet]] = {}
        self._channels: dict[str, dict[tuple[Selection, str], Channel]] = {}
        self._outlets: set[Outlet] = set()
        self._pages = Pages(self._load_page)
        self._committed: list[list[Entry]] = []
        self._spawned: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._on_others: list[Callable[[], None]] = []
        self.clock = time.monotonic
        self.pulse = Pulse(self.clock)

    @property
    def followers(self) -> int:
        """How many streams are open (a metric)."""
        return len(self._outlets) + sum(len(group) for group in self._followers.values())

    def publish(self, batch: list[Entry]) -> None:
        """Take in what was just committed; commits that come in one turn of the event loop go out in one write."""
        if not self._committed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._committed.append(batch)

    def _flush(self) -> None:
        committed, self._committed = self._committed, []
        whole: list[Entry] = []
        for batch in committed:
            if whole and batch[0].offset != whole[-1].offset + 1:
                self._deliver(whole)
                whole = []
            whole += batch
        self._deliver(whole)

    def _deliver(self, batch: list[Entry]) -> None:
        """Give it to those it concerns."""
        if batch[0].offset != self.window.head:
            batch = [entry for entry in batch if entry.offset >= self.window.head]
            if not batch:  # everyone was sent to the disk for it before
                return
            self._fall_behind()
        self.window.extend(batch)
        by_stream: dict[str, list[Entry]] = {}
        for entry in batch:
            by_stream.setdefault(entry.stream, []).append(entry)
        now = self.clock()
        for stream, entries in by_stream.items():
            for channel in list(self._channels.get(stream, {}).values()):
                try:
                    channel.deliver(entries, now)
                except Exception:  # one format's trouble is not the other readers'
                    log.exception("feed.delivery_failed", stream=stream, format=channel.fmt.key)
                    channel.stop()
            self._wake(stream, entries[0].offset)
        self._wake(None, batch[0].offset)

    async def look_around(self) -> int:
        """See whether other servers have committed anything, and let the readers here have it from disk.

        Call this now and then where several servers share a database. Gives the journal's head on disk.
        """
        head = await self._read(store.next_offset)
        if head > self.window.head and not self._committed:
            self.window.skip(head)
            self._fall_behind()
        return head

    def on_others(self, callback: Callable[[], None]) -> None:
        """Call this on the event loop when another server has committed entries, within :data:`STEP` seconds."""
        self._on_others.append(callback)

    def _fall_behind(self) -> None:
        """Another server has committed entries that are not here: the live read on from where they are, on disk."""
        for callback in self._on_others:
            callback()
        soon = asyncio.get_running_loop().call_soon
        for group in self._followers.values():
            for follower in group:
                follower.reader.live = False
                soon(follower.rouse)
        for channels in list(self._channels.values()):
            for channel in channels.values():
                for outlet in channel.live():
                    outlet.paused()
                    soon(outlet.rouse)

    def _wake(self, stream: str | None, first: int) -> None:
        group = self._followers.get(stream)
        if group:
            for follower in list(group):
                follower.wake(first)

    async def reader(self, selection: Selection, fmt: WireFormat, sees: Sees, cursor: str) -> Reader:
        """A reader at ``cursor``: a cursor's text, ``"start"`` or ``"now"``.

        Raises :class:`CursorInvalid` or :class:`CursorExpired` (decisions.md: HTTP 410, close code 4410).
        """
        position = await self._position(selection.stream, cursor)
        return Reader(self.window, selection, fmt, sees, position)

    def follow(self, reader: Reader) -> Subscription:
        """Follow with a reader that is awaited."""
        subscription = Subscription(self, reader)
        self._followers.setdefault(reader.selection.stream, set()).add(subscription)
        return subscription

    def hand_over(
        self,
        reader: Reader,
        connection: Connection,
        on_end: Callable[[Outlet], None],
        live: WireFormat | None = None,
    ) -> Outlet:
        """Let the feed write to the connection itself; the reader's format frames for its transport.

        ``live``: another format for what comes once the reader has everything. Call :meth:`Outlet.pump` to begin.
        """
        stream, fmt = reader.selection.stream, live or reader.fmt
        channel: Channel | None = None
        if stream is not None:
            key = (reader.selection, fmt.key)
            channels = self._channels.setdefault(stream, {})
            if key not in channels:
                channels[key] = Channel(reader.selection, fmt)
            channel = channels[key]
            channel.members += 1
        outlet = Outlet(self, channel, reader, connection, on_end)
        self._outlets.add(outlet)
        if channel is None:
            self._followers.setdefault(None, set()).add(outlet)
        return outlet

    def drop(self, outlet: Outlet) -> None:
        """Forget an outlet that has stopped, and its channel if it was the last."""
        self._outlets.discard(outlet)
        channel, stream = outlet.channel, outlet.reader.selection.stream
        if channel is None or stream is None:
            self._leave(None, outlet)
            return
        channel.leave(outlet)
        channel.members -= 1
        if not channel.members:
            channels = self._channels.get(stream, {})
            channels.pop((channel.selection, channel.fmt.key), None)
            if not channels:
                self._channels.pop(stream, None)

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription; harmless when it has left already."""
        self._leave(subscription.reader.selection.stream, subscription)

    def _leave(self, stream: str | None, follower: Subscription | Outlet) -> None:
        group = self._followers.get(stream)
        if group is not None:
            group.discard(follower)
            if not group:
                del self._followers[stream]

    # -- what goes on by itself --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the pulse and, where there may be other servers, to look around."""
        tasks = [self._turn()] if self._database.is_sqlite else [self._turn(), self._watch()]
        self._tasks = [asyncio.create_task(task) for task in tasks]

    async def _turn(self) -> None:
        while True:
            await asyncio.sleep(STEP)
            self.pulse.turn()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(STEP)
            try:
                await self.look_around()
            except Exception as error:  # the next look tries again
                log.warning("feed.look_failed", error=str(error))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a reader's load in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    async def load(self, reader: Reader) -> list[bytes]:
        """One page from disk after the reader's cursor. Raises :class:`CursorExpired` if that was forgotten."""
        page = await self._pages.get(reader.selection, reader.position.offset)
        return reader.accept(page.entries, page.more, page.head)

    async def _load_page(self, key: Key) -> Page:
        stream, subject, offset = key
        head = self.window.head  # before the query: all below it was committed

        def query(conn: Connected) -> tuple[int, tuple[list[Entry], bool]]:
            return store.retained_from(conn, stream), store.page(conn, stream, offset, subject=subject)

        oldest, (entries, more) = await self._read(query)
        if offset < oldest:
            raise CursorExpired("what followed this cursor is no longer retained; start anew")
        # What is committed and not published yet will be: nobody may have it before, or he gets it twice.
        known = [entry for entry in entries if entry.offset < head]
        return Page(known, more and len(known) == len(entries), head)

    async def last_of_type(self, stream: str, type: str) -> int | None:
        """The offset of the newest entry of that type in a stream (is it over?)."""
        return await self._read(lambda conn: store.last_of_type(conn, stream, type))

    async def scope_of(self, stream: str) -> str | None:
        """The scope of a stream's entries; ``None`` if there is no such stream."""
        return await self._read(lambda conn: store.scope_of(conn, stream))

    def stop_all(self) -> None:
        """End every stream (shutdown); their readers go on elsewhere from their cursors."""
        for task in self._tasks:
            task.cancel()
        for outlet in list(self._outlets):
            outlet.stop()
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

        oldest = await self._read(lambda conn: store.retained_from(conn, stream))
        if wanted is None:
            return Cursor(oldest)
        if wanted.offset < oldest:
            raise CursorExpired("what followed this cursor is no longer retained; start anew")
        head = self.window.head
        if wanted.offset > head:
            head = await self.look_around()  # it may come from another server that is further ahead
        if wanted.offset > head:
            raise CursorExpired("this cursor lies ahead of the journal; start anew")
        return wanted

    async def _read(self, query: Callable[[Connected], T]) -> T:
        """Run a query on a loader thread: few of them, and a fair queue."""

        def run() -> T:
            with self._database.read() as conn:
                return query(conn)

        return await asyncio.get_running_loop().run_in_executor(self._loaders, run)
