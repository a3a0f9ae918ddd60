"""The live feed: subscriptions by stream, and loader threads for readers that are behind."""

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
from pilothouse.journal.outlet import Connection, FanOut, Outlet
from pilothouse.journal.pages import Key, Page, Pages
from pilothouse.journal.reader import Reader
from pilothouse.journal.timers import STEP, Timers
from pilothouse.journal.turns import Turns
from pilothouse.journal.window import Window
from pilothouse.storage import Database

log = structlog.get_logger("feed")
T = TypeVar("T")

LOADERS = 2
HELD = 16
"""Pages from disk that outlets hold at a time, until there is time to write them."""
NOW, START = "now", "start"


class Subscription:
    """A reader that can be awaited. It holds a cursor and no queue, so a slow reader uses no memory."""

    def __init__(self, feed: Feed, reader: Reader) -> None:
        self._feed = feed
        self._waiter: asyncio.Future[None] | None = None
        self.reader = reader
        self.stopped = False

    async def next(self) -> list[bytes]:
        """Wait for the next messages (a bounded number); ``[]`` once the stream has ended or was stopped.

        Can be cancelled at any time without losing messages.
        """
        while not self.reader.ended and not self.stopped:
            messages = await self.past()
            if messages:
                return messages
            if self.reader.live and not self.stopped:
                await self._wait()
        return []

    async def past(self) -> list[bytes]:
        """The next messages that are already available; ``[]`` if there are none."""
        reader = self.reader
        while not reader.ended and not self.stopped:
            messages = await self._feed.load(reader) if reader.behind else reader.take()
            if messages or reader.live:
                return messages
        return []

    def stop(self) -> None:
        """End the stream; a pending :meth:`next` returns."""
        self.stopped = True
        self.recheck()

    def wake(self, first: int) -> None:
        """Notify the reader of new entries from offset ``first`` on."""
        self.reader.published(first)
        self.recheck()

    def close(self) -> None:
        """Unsubscribe from the feed; must always be called."""
        self._feed.leave(self)

    def recheck(self) -> None:
        """Make a pending :meth:`next` check again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Feed:
    """Delivers committed entries in order to all subscribers. Lives on the event loop."""

    def __init__(self, database: Database, epoch: str, head: int) -> None:
        self.epoch = epoch
        self.window = Window(head)
        self._database = database
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="loader")
        self._followers: dict[str | None, set[Subscription | Outlet]] = {}
        self._fan_outs: dict[str, dict[tuple[Selection, str], FanOut]] = {}
        self._outlets: set[Outlet] = set()
        self._pages = Pages(self._load_page)
        self._committed: list[list[Entry]] = []
        self._spawned: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._on_others: list[Callable[[], None]] = []
        self._turns = Turns()
        self._held = asyncio.Semaphore(HELD)
        self.clock = time.monotonic
        self.timers = Timers(self.clock)

    @property
    def followers(self) -> int:
        """Number of open streams (a metric)."""
        return len(self._outlets) + sum(len(group) for group in self._followers.values())

    def publish(self, batch: list[Entry]) -> None:
        """Accept committed entries; commits of one event loop iteration are delivered in one write."""
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
        """Deliver a batch to the subscribers of its streams."""
        if batch[0].offset != self.window.head:
            batch = [entry for entry in batch if entry.offset >= self.window.head]
            if not batch:  # all readers were already sent to the disk for these entries
                return
            self._fall_behind()
        self.window.extend(batch)
        by_stream: dict[str, list[Entry]] = {}
        for entry in batch:
            by_stream.setdefault(entry.stream, []).append(entry)
        now = self.clock()
        for stream, entries in by_stream.items():
            for fan_out in list(self._fan_outs.get(stream, {}).values()):
                try:
                    fan_out.deliver(entries, now)
                except Exception:  # an error of one format must not affect other readers
                    log.exception("feed.delivery_failed", stream=stream, format=fan_out.fmt.key)
                    fan_out.stop()
            self._wake(stream, entries[0].offset)
        self._wake(None, batch[0].offset)

    async def check_other_servers(self) -> int:
        """Check for commits of other servers, and let readers read them from disk.

        Called periodically if several servers share a database. Returns the journal's head on disk.
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
        """Switch live readers to reading from disk, since another server has committed entries."""
        for callback in self._on_others:
            callback()
        soon = asyncio.get_running_loop().call_soon
        for group in self._followers.values():
            for follower in group:
                follower.reader.live = False
                soon(follower.recheck)
        for fan_outs in list(self._fan_outs.values()):
            for fan_out in fan_outs.values():
                for outlet in fan_out.live():
                    outlet.paused()
                    soon(outlet.recheck)

    def _wake(self, stream: str | None, first: int) -> None:
        group = self._followers.get(stream)
        if group:
            for follower in list(group):
                follower.wake(first)

    async def reader(self, selection: Selection, fmt: WireFormat, sees: Sees, cursor: str) -> Reader:
        """Create a reader at ``cursor``: the text of a cursor, ``"start"`` or ``"now"``.

        Raises :class:`CursorInvalid` or :class:`CursorExpired` (decisions.md: HTTP 410, close code 4410).
        """
        position = await self._position(selection.stream, cursor)
        return Reader(self.window, selection, fmt, sees, position)

    def follow(self, reader: Reader) -> Subscription:
        """Subscribe with a reader that is awaited."""
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
        """Let the feed write directly to the connection; the reader's format must be framed for its transport.

        ``live``: a different format for entries after the reader has caught up. Call :meth:`Outlet.pump` to
        start.
        """
        stream, fmt = reader.selection.stream, live or reader.fmt
        fan_out: FanOut | None = None
        if stream is not None:
            key = (reader.selection, fmt.key)
            fan_outs = self._fan_outs.setdefault(stream, {})
            if key not in fan_outs:
                fan_outs[key] = FanOut(reader.selection, fmt)
            fan_out = fan_outs[key]
            fan_out.members += 1
        outlet = Outlet(self, fan_out, reader, connection, on_end)
        self._outlets.add(outlet)
        if fan_out is None:
            self._followers.setdefault(None, set()).add(outlet)
        return outlet

    def drop(self, outlet: Outlet) -> None:
        """Remove a stopped outlet, and its fan-out if it was the last one."""
        self._outlets.discard(outlet)
        fan_out, stream = outlet.fan_out, outlet.reader.selection.stream
        if fan_out is None or stream is None:
            self._leave(None, outlet)
            return
        fan_out.leave(outlet)
        fan_out.members -= 1
        if not fan_out.members:
            fan_outs = self._fan_outs.get(stream, {})
            fan_outs.pop((fan_out.selection, fan_out.fmt.key), None)
            if not fan_outs:
                self._fan_outs.pop(stream, None)

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription; does nothing if it was already removed."""
        self._leave(subscription.reader.selection.stream, subscription)

    def _leave(self, stream: str | None, follower: Subscription | Outlet) -> None:
        group = self._followers.get(stream)
        if group is not None:
            group.discard(follower)
            if not group:
                del self._followers[stream]

    # -- background work ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the timers and, if other servers can share the database, the polling of their commits."""
        tasks = (
            [self._run_timers()]
            if self._database.is_sqlite
            else [self._run_timers(), self._poll_other_servers()]
        )
        self._tasks = [asyncio.create_task(task) for task in tasks]

    async def _run_timers(self) -> None:
        while True:
            await asyncio.sleep(STEP)
            self.timers.run_due()

    async def _poll_other_servers(self) -> None:
        while True:
            await asyncio.sleep(STEP)
            try:
                await self.check_other_servers()
            except Exception as error:  # retried in the next round
                log.warning("feed.look_failed", error=str(error))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a reader's load in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    @property
    def crowded(self) -> bool:
        """Whether outlets that catch up have used their time in this iteration of the event loop."""
        return self._turns.over

    def later(self, outlet: Outlet) -> None:
        """Let the outlet go on catching up in a later iteration, in its turn."""
        self._turns.add(outlet.pump)

    async def load(self, reader: Reader) -> list[bytes]:
        """Load one page from disk after the reader's cursor.

        Raises :class:`CursorExpired` if it is not retained.
        """
        page = await self._pages.get(reader.selection, reader.position.offset)
        return reader.accept(page.entries, page.more, page.head)

    async def hold(self) -> None:
        """Wait until one more page may be held by an outlet."""
        await self._held.acquire()

    async def page(self, reader: Reader) -> Page:
        """The page from disk after the reader's cursor. Raises :class:`CursorExpired` if it is not retained."""
        return await self._pages.get(reader.selection, reader.position.offset)

    async def encode(self, entries: list[Entry], fmt: WireFormat) -> None:
        """Encode large entries on a loader thread, where others need not wait for the end of it."""

        def run() -> None:
            for entry in entries:
                entry.frames(fmt)

        await asyncio.get_running_loop().run_in_executor(self._loaders, run)

    def let_go(self) -> None:
        """An outlet has written its page, or does not need it any more."""
        self._held.release()

    async def _load_page(self, key: Key) -> Page:
        stream, subject, offset = key
        head = self.window.head  # read before the query: all entries below it are committed

        def query(conn: Connected) -> tuple[int, tuple[list[Entry], bool]]:
            return store.retained_from(conn, stream), store.page(conn, stream, offset, subject=subject)

        oldest, (entries, more) = await self._read(query)
        if offset < oldest:
            raise CursorExpired("the entries after this cursor are no longer retained; start again")
        # Entries that are committed but not yet published must not be returned: they would be delivered
        # twice.
        known = [entry for entry in entries if entry.offset < head]
        return Page(known, more and len(known) == len(entries), head)

    async def last_of_type(self, stream: str, type: str) -> int | None:
        """The offset of the newest entry of this type in a stream; ``None`` if there is none."""
        return await self._read(lambda conn: store.last_of_type(conn, stream, type))

    async def scope_of(self, stream: str) -> str | None:
        """The scope of a stream's entries; ``None`` if the stream does not exist."""
        return await self._read(lambda conn: store.scope_of(conn, stream))

    def stop_all(self) -> None:
        """End every stream (shutdown); clients resume from their cursors."""
        for task in self._tasks:
            task.cancel()
        for outlet in list(self._outlets):
            outlet.stop()
        for group in list(self._followers.values()):
            for follower in list(group):
                follower.stop()

    def close(self) -> None:
        """Stop the loader threads."""
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def _position(self, stream: str | None, cursor: str) -> Cursor:
        if cursor == NOW:
            return Cursor(self.window.head)
        wanted = None if cursor == START else Cursor.parse(cursor, self.epoch)

        oldest = await self._read(lambda conn: store.retained_from(conn, stream))
        if wanted is None:
            return Cursor(oldest)
        if wanted.offset < oldest:
            raise CursorExpired("the entries after this cursor are no longer retained; start again")
        head = self.window.head
        if wanted.offset > head:
            head = await self.check_other_servers()  # it may be from another server that is further ahead
        if wanted.offset > head:
            raise CursorExpired("this cursor is ahead of the journal; start again")
        return wanted

    async def _read(self, query: Callable[[Connected], T]) -> T:
        """Run a query on a loader thread (a small pool with a fair queue)."""

        def run() -> T:
            with self._database.read() as conn:
                return query(conn)

        return await asyncio.get_running_loop().run_in_executor(self._loaders, run)
