"""Readers that own a socket: the feed writes to them itself, without a task or a queue for each.

A live outlet has everything up to the window's head; what comes next is framed once for its whole channel and
handed to each transport. One whose socket fills up leaves the channel and keeps only its cursor; when the socket
drains it reads on from there, from memory or disk, until it is live again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Protocol

import structlog

from pilothouse.journal.errors import CursorExpired
from pilothouse.journal.model import Cursor, Entry, Selection, WireFormat
from pilothouse.journal.reader import Reader

log = structlog.get_logger("feed")
Write = Callable[[bytes], object]


class Connection(Protocol):
    """A socket that may be written to directly (see ``server/protocols.py``)."""

    @property
    def write(self) -> Write:
        """Hand bytes to the transport; never waits."""

    @property
    def writable(self) -> bool:
        """Whether the transport's buffer is below its high-water mark."""

    def attach(self, outlet: Outlet) -> None:
        """Call the outlet's ``paused``, ``resumed`` and ``stop`` as the transport fills, drains and ends."""

    def detach(self, outlet: Outlet) -> None:
        """The outlet has ended."""


class Host(Protocol):
    """What an outlet needs of its feed."""

    clock: Callable[[], float]

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run this in the background."""

    async def load(self, reader: Reader) -> list[bytes]:
        """One page from disk after the reader's cursor."""

    def drop(self, outlet: Outlet) -> None:
        """Forget an outlet that has stopped."""


class Channel:
    """The live outlets of one stream and wire format: what they get is encoded and joined once.

    All entries of one stream have one scope, so that a reader's right to them is tested when it joins and when
    its rights change, not for each entry. ``members`` counts all its outlets, the live ones and those behind.
    """

    def __init__(self, selection: Selection, fmt: WireFormat) -> None:
        self.selection = selection
        self.fmt = fmt
        self.last_write = 0.0
        self.members = 0
        #: Live outlets have everything of this stream below this offset.
        self.delivered = 0
        self._outlets: dict[Outlet, None] = {}
        self._writes: list[Write] | None = []

    def join(self, outlet: Outlet) -> None:
        """The outlet has everything: from here on it is live."""
        self._outlets[outlet] = None
        self._writes = None

    def has(self, outlet: Outlet) -> bool:
        """Whether the outlet is live."""
        return outlet in self._outlets

    def live(self) -> list[Outlet]:
        """The outlets that are live now."""
        return list(self._outlets)

    def leave(self, outlet: Outlet) -> bool:
        """Whether it was live."""
        if not self.has(outlet):
            return False
        del self._outlets[outlet]
        self._writes = None
        return True

    def deliver(self, batch: list[Entry], now: float) -> None:
        """Write newly published entries of this stream to every live outlet."""
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
        for outlet in everyone:  # those too whose socket this last write has filled
            outlet.end()

    def stop(self) -> None:
        """End all its live outlets; their readers come back with their cursors."""
        for outlet in self.live():
            outlet.stop()

    def _write_all(self, data: bytes) -> None:
        """The hot loop: the same bytes to every live outlet."""
        if self._writes is None:
            # Made in one go, these lie side by side in memory, which is a tenth of the loop's own time.
            self._writes = [outlet.connection.write for outlet in self._outlets]
        for write in self._writes:
            write(data)


class Outlet:
    """One reader on one socket. ``on_end`` is called once, when it has ended for whatever reason.

    ``finished``: the stream came to its own end; ``expired``: what it was to read next is no longer retained.
    ``on_live``, if set, is called the first time it has everything; from then on it speaks its channel's format.
    """

    __slots__ = (
        "_feed",
        "_loading",
        "_stopped",
        "channel",
        "connection",
        "expired",
        "finished",
        "last_write",
        "on_end",
        "on_live",
        "reader",
    )

    def __init__(
        self,
        feed: Host,
        channel: Channel | None,
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
        #: ``None`` for readers of the whole journal: there the right to see is tested for each entry.
        self.channel = channel
        self._feed = feed
        self._loading = False
        self._stopped = False
        connection.attach(self)

    def pump(self) -> None:
        """Write what lies after the cursor while the socket takes it; live once there is nothing more.

        Harmless when it is live: then its channel writes, and the cursor stays where it joined.
        """
        if self.channel is not None and self.channel.has(self):
            return
        reader = self.reader
        while not self._stopped and not self._loading and self.connection.writable:
            messages = reader.take()
            if messages:
                self._write_now(messages)
            elif reader.ended:
                self.end()
            elif reader.behind:
                self._loading = True
                self._feed.spawn(self._load())
            elif reader.live:
                self._has_everything()
                return

    def rouse(self) -> None:
        """Look again whether there is something to read."""
        self.pump()

    def wake(self, first: int) -> None:
        """New entries from offset ``first`` on (for readers of the whole journal)."""
        self.reader.published(first)
        self.pump()

    def paused(self) -> None:
        """The socket is full: it has what was there when it went live, and what its channel has delivered since.

        Not all that is in the window: the write that filled it may be another channel's of the same socket.
        """
        position = self.position
        if self.channel is not None and self.channel.leave(self):
            self.reader.position = position

    def end(self) -> None:
        """The stream is finished: its last message has been written."""
        self.finished = True
        self.stop()

    def stop(self) -> None:
        """Nothing more is written; harmless when it has stopped already."""
        if self._stopped:
            return
        self._stopped = True
        self._feed.drop(self)
        self.connection.detach(self)
        self.on_end(self)

    @property
    def position(self) -> Cursor:
        """All before this was written, or is nothing for this reader."""
        if self.channel is not None and self.channel.has(self):
            return max(self.reader.position, Cursor(self.channel.delivered))
        return self.reader.position

    def idle_since(self) -> float:
        """When something was last written (the feed's clock)."""
        return max(self.last_write, self.channel.last_write) if self.channel else self.last_write

    def _has_everything(self) -> None:
        if self.on_live is not None:
            call, self.on_live = self.on_live, None
            call()
        if self.channel is not None and not self._stopped:
            self.reader.fmt = self.channel.fmt
            self.channel.join(self)

    def _write_now(self, messages: list[bytes]) -> None:
        self.last_write = self._feed.clock()
        self.connection.write(b"".join(messages))

    async def _load(self) -> None:
        try:
            messages = await self._feed.load(self.reader)
        except CursorExpired as error:
            self.expired = error
            self.stop()
            return
        except Exception:  # the database did not answer: the reader comes back with its cursor
            log.exception("feed.load_failed", stream=self.reader.selection.stream)
            self.stop()
            return
        finally:
            self._loading = False
        if messages and not self._stopped:
            self._write_now(messages)
        self.pump()
