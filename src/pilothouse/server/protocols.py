"""Thin subclasses of uvicorn's protocols: an endpoint may take over its socket and give it to the feed.

``scope["extensions"]`` carries a function that does so (``server/feed_socket.py``, ``server/websocket.py``). The
protocol of uvicorn, the request's scope and the framework's frames are freed then, while the socket stays open.
"""

from __future__ import annotations

from asyncio.transports import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from pilothouse.edge.streaming import CONNECTION
from pilothouse.server.feed_socket import EventSocket
from pilothouse.server.websocket import GOING_AWAY, MessageSocket

MAX_HEAD = 64 << 10
"""Bytes of a request line and headers."""

MAX_PIPELINED = 16
"""Pipelined requests on one connection that wait for an earlier answer."""


class _LetGo(Transport):
    """Replaces a transport that was taken over, since uvicorn closes its transport when the endpoint returns."""

    def close(self) -> None:
        """Does nothing: the new protocol closes the transport."""


_LET_GO = _LetGo()


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose socket an event stream can take over, with a bound on request line and headers."""

    _in_head = True
    _head = 0

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MAX_HEAD:
            self.send_400_response(f"The request line and headers have at most {MAX_HEAD} bytes.")

    def on_message_begin(self) -> None:
        """Called by the parser when a request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise OverflowError("too many requests before the first was answered")  # the parser stops: 400
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Offer the socket to the endpoint."""
        self._in_head = False
        offers: Any = {CONNECTION: self._take}
        self.scope["extensions"] = offers
        super().on_headers_complete()

    def _take(self) -> EventSocket:
        """Hand the socket over after the response's head; pipelined requests are dropped."""
        transport, cycle = self.transport, self.cycle
        assert cycle is not None
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.connections.discard(self)
        taken = EventSocket(transport, self.connections)
        cycle.response_complete = True  # uvicorn has to see the end of the connection
        self.pipeline.clear()
        # Reference cycles would only be freed by the garbage collector, much later.
        self.cycle = self.parser = self.scope = None  # type: ignore[assignment]
        return taken


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket whose socket the endpoint takes over once it is accepted. Nothing is read before."""

    _taken = False

    def handle_connect(self, event: Request) -> None:
        """Offer the socket to the endpoint."""
        super().handle_connect(event)
        if not self.handshake_complete:
            offers: Any = self.scope["extensions"]
            offers[CONNECTION] = self._take
            self.transport.pause_reading()

    async def send(self, message: Any) -> None:
        """ASGI: an endpoint that does not take the socket over reads it as usual."""
        await super().send(message)
        if message["type"] == "websocket.accept" and not self._taken:
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._taken and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _take(self) -> MessageSocket:
        """Hand the socket over, right after it was accepted."""
        self._taken = True
        self.connections.discard(self)
        taken = MessageSocket(self.transport, self.connections, self.config.ws_max_size)
        self.transport = _LET_GO
        self.conn = self.scope = self.request = self.response = None  # type: ignore[assignment]
        return taken

    def shutdown(self) -> None:
        """Called when the server stops: tells clients to reconnect, by 1001 (uvicorn would send 1012)."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        self.conn.send_close(GOING_AWAY, "reconnect")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
