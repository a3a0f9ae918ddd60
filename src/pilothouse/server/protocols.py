"""Thin subclasses of uvicorn's protocols: an endpoint may hand its socket to the feed.

``scope["extensions"]`` carries a function that opens a :class:`Tap`, through which the feed writes shared,
pre-framed bytes straight to the transport and hears when it fills, drains and ends. uvicorn still reads: it
parses, answers pings, closes.
"""

from __future__ import annotations

from asyncio.transports import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from pilothouse.identity.streaming import CONNECTION
from pilothouse.journal.outlet import Outlet, Write

GOING_AWAY = 1001
HIGH_WATER = 64 << 10
"""Bytes in a socket's buffer from which on its reader waits; what it misses it gets from its cursor."""

MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers."""

MAX_PIPELINED = 16
"""Requests on one connection that wait for the answer to one before them."""


class Tap:
    """One connection as the feed sees it. Several outlets may share it (the channels of one WebSocket)."""

    __slots__ = ("_interrupt", "_outlets", "_transport", "writable", "write")

    def __init__(self, transport: Transport, interrupt: Any = None) -> None:
        if not transport.is_closing():
            transport.set_write_buffer_limits(HIGH_WATER)
        self._transport = transport
        self._interrupt = interrupt
        self._outlets: list[Outlet] = []
        self.write: Write = transport.write
        self.writable = True

    @property
    def flushed(self) -> bool:
        """Whether every byte has left our buffer."""
        return self._transport.get_write_buffer_size() == 0

    def attach(self, outlet: Outlet) -> None:
        """Tell this outlet of what happens to the transport."""
        if self._transport.is_closing():
            outlet.done.get_loop().call_soon(outlet.stop)
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        """The outlet has ended."""
        if outlet in self._outlets:
            self._outlets.remove(outlet)

    def interrupt(self) -> None:
        """Make a pending ``receive`` return a disconnect."""
        if self._interrupt is not None:
            self._interrupt({"type": "websocket.disconnect", "code": GOING_AWAY, "reason": ""})

    def paused(self) -> None:
        """The transport's buffer is over its high-water mark."""
        self.writable = False
        for outlet in self._outlets:
            outlet.paused()

    def resumed(self) -> None:
        """It has drained."""
        self.writable = True
        for outlet in list(self._outlets):
            outlet.pump()

    def lost(self) -> None:
        """The connection is gone."""
        self.writable = False
        for outlet in list(self._outlets):
            outlet.stop()


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1, with a tap for event streams, and a bound on what may come before a request's body."""

    tap: Tap | None = None
    _in_head = True
    _head = 0

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MAX_HEAD:
            self.send_400_response(f"The request line and headers have at most {MAX_HEAD} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise OverflowError("too many requests before the first was answered")  # the parser gives up: 400
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Offer the socket to the endpoint."""
        self._in_head = False
        self.tap = None
        offers: Any = {CONNECTION: self._open_tap}
        self.scope["extensions"] = offers
        super().on_headers_complete()

    def _open_tap(self) -> Tap:
        self.tap = self.tap or Tap(self.transport)
        return self.tap

    def pause_writing(self) -> None:
        """Called by the transport."""
        super().pause_writing()
        if self.tap is not None:
            self.tap.paused()

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        if self.tap is not None:
            self.tap.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        if self.tap is not None:
            self.tap.lost()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket, with a tap; a stop tells clients to reconnect (1001, where uvicorn's own says 1012)."""

    tap: Tap | None = None

    def handle_connect(self, event: Request) -> None:
        """Offer the socket to the endpoint."""
        super().handle_connect(event)
        if not self.handshake_complete:
            offers: Any = self.scope["extensions"]
            offers[CONNECTION] = self._open_tap

    def _open_tap(self) -> Tap:
        self.tap = self.tap or Tap(self.transport, self.queue.put_nowait)
        return self.tap

    def pause_writing(self) -> None:
        """Called by the transport."""
        super().pause_writing()
        if self.tap is not None:
            self.tap.paused()

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        if self.tap is not None:
            self.tap.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        if self.tap is not None:
            self.tap.lost()

    def shutdown(self) -> None:
        """Called once for every open connection when the server stops."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        self.conn.send_close(GOING_AWAY, "reconnect")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
