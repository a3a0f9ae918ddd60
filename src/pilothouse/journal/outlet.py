"""Readers with a socket: the feed writes to them directly, without a task or a queue per reader.

A live outlet has received everything up to the window's head; new entries are framed once per fan-out and
written to each transport. An outlet whose socket is full leaves the fan-out and keeps only its cursor; when the
socket drains it continues from there, from memory or disk, until it is live again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Protocol

import structlog

from pilothouse.journal.errors import CursorExpired
from pilothouse.journal.model import Cursor, Entry, Selection, WireFormat
from pilothouse.journal.pages import Page
from pilothouse.journal.reader import Reader

log = structlog.get_logger("feed")
Write = Callable[[bytes], object]


class Connection(Protocol):
    """A socket that can be written to directly (see ``server/protocols.py``)."""

    @property
    def write(self) -> Write:
        """Write bytes to the transport; never waits."""

    @property
    def writable(self) -> bool:
        """Whether the transport's buffer is below its high-water mark."""

    def attach(self, outlet: Outlet) -> None:
        """Call the outlet's ``paused``, ``resumed`` and ``stop`` when the transport fills, drains and closes."""

    def detach(self, outlet: Outlet) -> None:
        """Stop calling the outlet, which has ended."""


class Host(Protocol):
    """The part of the feed that outlets use."""

    clock: Callable[[], float]

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the background."""

    @property
    def crowded(self) -> bool:
        """Whether outlets that catch up have used their time in this iteration of the event loop."""

    def later(self, outlet: Outlet) -> None:
        """Let the outlet go on catching up in a later iteration, in its turn."""

    async def hold(self) -> None:
        """Wait until one more page may be held in memory."""

    async def page(self, reader: Reader) -> Page:
        """One page from disk after the reader's cursor."""

    async def encode(self, entries: list[Entry], fmt: WireFormat) -> None:
        """Encode large entries on another thread."""

    def let_go(self) -> None:
        """The page is no longer held; others may hold one instead."""

    def drop(self, outlet: Outlet) -> None:
        """Remove a stopped outlet."""


class FanOut:
    """The live outlets of one stream and wire format, whose data is encoded and joined once.

    All entries of a stream have one scope, so a reader's right to see them is checked when it joins and when
    its rights change, not per entry. ``members`` counts all its outlets, live or behind.
    """

    def __init__(self, selection: Selection, fmt: WireFormat) -> None:
        self.selection = selection
        self.fmt = fmt
        self.last_write = 0.0
        self.members = 0
        #: Live outlets have received all entries of the stream below this offset.
        self.delivered = 0
        self._outlets: dict[Outlet, None] = {}
        self._writes: list[Write] | None = []

    def join(self, outlet: Outlet) -> None:
        """Add an outlet that has caught up; it is live from now on."""
        self._outlets[outlet] = None
        self._writes = None

    def has(self, outlet: Outlet) -> bool:
        """Whether the outlet is live."""
        return outlet in self._outlets

    def live(self) -> list[Outlet]:
        """The live outlets."""
        return list(self._outlets)

    def leave(self, outlet: Outlet) -> bool:
        """Remove an outlet; whether it was live."""
        if not self.has(outlet):
            return False
        del self._outlets[outlet]
        self._writes = None
        return True

    def deliver(self, batch: list[Entry], now: float) -> None:
        """Write new entries of the stream to every live outlet."""
        frames: list[bytes] = []
        ended = False
        for entry in batch:
            if self.selection.wants(entry):
                frames += [frame.data for frame in entry.frames(self.fmt)]
                if self.fmt.ends(entry):
                    ended = True
                    break
        everyone = self.live() if ended else []
        self.delivered = batch[-1].offset + 1
        if frames:
            self.last_write = now
            self._write_all(b"".join(frames) if len(frames) > 1 else frames[0])
        for outlet in everyone:  # including those whose socket was filled by this write
            outlet.end()

    def stop(self) -> None:
        """End all live outlets; clients resume from their cursors."""
        for outlet in self.live():
            outlet.stop()

    def _write_all(self, data: bytes) -> None:
        """Write the same bytes to every live outlet; the hot loop."""
        if self._writes is None:
            # Built at once, the bound methods are adjacent in memory, which saves a tenth of the loop's time.
            self._writes = [outlet.connection.write for outlet in self._outlets]
        for write in self._writes:
            write(data)


class Outlet:
    """One reader on one socket. ``on_end`` is called once, when it has ended for any reason.

    ``finished``: the stream is complete; ``expired``: the next entries are no longer retained. ``on_live``,
    if set, is called the first time the outlet has caught up; from then on it uses the format of its fan-out.
    """

    __slots__ = (
        "_feed",
        "_loading",
        "_page",
        "_stopped",
        "connection",
        "expired",
        "fan_out",
        "finished",
        "last_write",
        "on_end",
        "on_live",
        "reader",
    )

    def __init__(
        self,
        feed: Host,
        fan_out: FanOut | None,
        reader: Reader,
        connection: Connection,
        on_end: Callable[[Outlet], None],
    ) -> None:
        self.reader = reader
        self.connection = connection
        self.on_end = on_end
        self.finished = False
        self.expired: CursorExpired | None = None
        self.last_write = 0.0
        self.on_live: Callable[[], None] | None = None
        #: ``None`` for readers of the whole journal, where the right to see is checked per entry.
        self.fan_out = fan_out
        self._feed = feed
        self._loading = False
        self._page: Page | None = None  # from disk, at the cursor; held until there is time to write it
        self._stopped = False
        connection.attach(self)

    def pump(self) -> None:
        """Write entries after the cursor while the socket accepts data; becomes live when caught up.

        Does nothing if it is live: the fan-out then writes, and the cursor stays where the outlet joined.
        Outlets share a small part of each iteration of the event loop, so that many that read a long past do not
        delay other work.
        """
        if self.fan_out is not None and self.fan_out.has(self):
            return
        reader = self.reader
        while not self._stopped and not self._loading and self.connection.writable:
            if self._feed.crowded:
                self._feed.later(self)
                return
            if large := reader.costly(self._page.entries if self._page else None):
                self._loading = True
                self._feed.spawn(self._encode(large))
                return
            messages = self._take()
            if messages:
                self._write_now(messages)
            elif reader.ended:
                self.end()
            elif reader.behind:
                self._loading = True
                self._feed.spawn(self._load())
            elif reader.live:
                self._caught_up()
                return

    def recheck(self) -> None:
        """Check again for entries to write."""
        self.pump()

    def wake(self, first: int) -> None:
        """Notify of new entries from offset ``first`` on (for readers of the whole journal)."""
        self.reader.published(first)
        self.pump()

    def paused(self) -> None:
        """Handle a full socket: compute the cursor from the entries that the fan-out has delivered since it joined.

        Entries in the window may be missing, since the write that filled the socket can be of another fan-out.
        """
        self._forget_page()
        position = self.position
        if self.fan_out is not None and self.fan_out.leave(self):
            self.reader.position = position

    def end(self) -> None:
        """End the stream after its last message was written."""
        self.finished = True
        self.stop()

    def stop(self) -> None:
        """Write nothing more; does nothing if already stopped."""
        if self._stopped:
            return
        self._stopped = True
        self._forget_page()
        self._feed.drop(self)
        self.connection.detach(self)
        self.on_end(self)

    @property
    def position(self) -> Cursor:
        """The position before which everything was written or is not selected."""
        if self.fan_out is not None and self.fan_out.has(self):
            return max(self.reader.position, Cursor(self.fan_out.delivered))
        return self.reader.position

    def idle_since(self) -> float:
        """Time of the last write (the feed's clock)."""
        return max(self.last_write, self.fan_out.last_write) if self.fan_out else self.last_write

    def _caught_up(self) -> None:
        if self.on_live is not None:
            call, self.on_live = self.on_live, None
            call()
        if self.fan_out is not None and not self._stopped:
            self.reader.fmt = self.fan_out.fmt
            self.fan_out.join(self)

    def _write_now(self, messages: list[bytes]) -> None:
        self.last_write = self._feed.clock()
        self.connection.write(b"".join(messages))

    def _take(self) -> list[bytes]:
        """The next messages: of the page that was loaded, or from memory."""
        page = self._page
        if page is None:
            return self.reader.take()
        self._forget_page()
        return self.reader.accept(page.entries, page.more, page.head)

    def _forget_page(self) -> None:
        if self._page is not None:
            self._page = None
            self._feed.let_go()

    async def _encode(self, entries: list[Entry]) -> None:
        try:
            await self._feed.encode(entries, self.reader.fmt)
        except Exception:  # the client resumes from its cursor
            log.exception("feed.encoding_failed", stream=self.reader.selection.stream)
            self.stop()
        finally:
            self._loading = False
        self.pump()

    async def _load(self) -> None:
        await self._feed.hold()
        try:
            if not self._stopped:
                self._page = await self._feed.page(self.reader)
        except CursorExpired as error:
            self.expired = error
            self.stop()
        except Exception:  # the database is unavailable: the client resumes from its cursor
            log.exception("feed.load_failed", stream=self.reader.selection.stream)
            self.stop()
        finally:
            self._loading = False
            if self._page is None:
                self._feed.let_go()
        if self._stopped or not self.connection.writable:
            self._forget_page()
        self.pump()
