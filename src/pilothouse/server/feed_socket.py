"""Connections that the journal's feed writes to, after their endpoint has handed them over.

uvicorn has done the handshake, the framework routing and authorization; their objects are freed. What remains is a
protocol with a few slots on the same transport. The feed writes shared bytes; this protocol tells it when the
socket's buffer is full, has drained, and when the connection has ended. An idle socket needs no task.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import Transport
from typing import Any

from pilothouse.journal.outlet import Outlet, Write

HIGH_WATER = 64 << 10
"""Bytes in a socket's buffer from which on nothing more is written; the reader continues from its cursor later."""

CLOSE_WAIT = 10.0
"""Seconds that a client has to read what was written before a close, and to answer a closing handshake."""


class FeedSocket(asyncio.Protocol):
    """Base class: one connection. Several outlets may share it (the channels of one WebSocket)."""

    __slots__ = ("_connections", "_outlets", "_timer", "_transport", "writable")

    def __init__(self, transport: Transport, connections: set[Any]) -> None:
        """``connections``: the server's open connections; ``shutdown`` of each is called when the server stops."""
        self._transport = transport
        self._connections = connections
        self._outlets: list[Outlet] = []
        self._timer: asyncio.TimerHandle | None = None
        self.writable = True
        connections.add(self)
        if not transport.is_closing():
            transport.set_write_buffer_limits(HIGH_WATER)
        transport.set_protocol(self)

    @property
    def write(self) -> Write:
        """Write bytes to the transport; never waits."""
        return self._transport.write

    @property
    def flushed(self) -> bool:
        """Whether the write buffer is empty."""
        return self._transport.get_write_buffer_size() == 0

    @property
    def over(self) -> bool:
        """Whether nothing may be written any more."""
        return self._transport.is_closing()

    def attach(self, outlet: Outlet) -> None:
        """Notify this outlet of changes of the transport."""
        self._outlets.append(outlet)
        if self.over:
            asyncio.get_running_loop().call_soon(outlet.stop)

    def detach(self, outlet: Outlet) -> None:
        """Stop notifying an outlet, which has ended."""
        if outlet in self._outlets:
            self._outlets.remove(outlet)

    def pause_writing(self) -> None:
        """Called by the transport: its buffer is over the high-water mark."""
        self.writable = False
        for outlet in self._outlets:
            outlet.paused()

    def resume_writing(self) -> None:
        """Called by the transport: it has drained."""
        self.writable = not self.over
        for outlet in list(self._outlets):
            outlet.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._stop_outlets()

    def _stop_outlets(self) -> None:
        self.writable = False
        for outlet in list(self._outlets):
            outlet.stop()

    def _expect_end(self) -> None:
        """Abort the connection if it has not ended within :data:`CLOSE_WAIT`."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CLOSE_WAIT, self._transport.abort)


class EventSocket(FeedSocket):
    """A connection that carries an event stream; input of the client is ignored."""

    __slots__ = ()

    def finish(self, last: bytes) -> None:
        """Write these bytes, then close; does nothing if the connection is closed already."""
        if not self._transport.is_closing():
            self.write(last)
            self._transport.close()
            self._expect_end()

    def shutdown(self) -> None:
        """Called when the server stops, after the feed has ended its streams."""
        self._transport.close()
