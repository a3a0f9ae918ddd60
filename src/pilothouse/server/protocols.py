"""Thin subclasses of uvicorn's protocols: an endpoint may take its socket and hand it to the feed.

``scope["extensions"]`` carries a function that takes it (``server/handed.py``, ``server/websocket.py``). uvicorn then
lets go: its protocol, the request's scope and the framework's frames are freed while the socket lives on.
"""

from __future__ import annotations

from asyncio.transports import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from pilothouse.edge.streaming import CONNECTION
from pilothouse.server.handed import EventSocket
from pilothouse.server.websocket import GOING_AWAY, MessageSocket

MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers."""

MAX_PIPELINED = 16
"""Requests on one connection that wait for the answer to one before them."""


class _LetGo(Transport):
    """In place of a transport that was handed over: uvicorn closes the one it has when the endpoint returns."""

    def close(self) -> None:
        """It is somebody else's now."""


_LET_GO = _LetGo()


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1, whose socket an event stream can take, with a bound on what may come before a request's body."""

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
        offers: Any = {CONNECTION: self._take}
        self.scope["extensions"] = offers
        super().on_headers_complete()

    def _take(self) -> EventSocket:
        """Give the socket away, after the response's head; requests that were sent behind this one are dropped."""
        transport, cycle = self.transport, self.cycle
        assert cycle is not None
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.connections.discard(self)
        taken = EventSocket(transport, self.connections)
        cycle.response_complete = True  # uvicorn is not to miss its end
        self.pipeline.clear()
        # What refers to itself would be freed by the collector only, much later.
        self.cycle = self.parser = self.scope = None  # type: ignore[assignment]
        return taken


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket, whose socket the endpoint takes once it is accepted. Nothing is read before that."""

    _taken = False

    def handle_connect(self, event: Request) -> None:
        """Offer the socket to the endpoint."""
        super().handle_connect(event)
        if not self.handshake_complete:
            offers: Any = self.scope["extensions"]
            offers[CONNECTION] = self._take
            self.transport.pause_reading()

    async def send(self, message: Any) -> None:
        """ASGI: an endpoint that does not take the socket at once reads it the ordinary way."""
        await super().send(message)
        if message["type"] == "websocket.accept" and not self._taken:
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._taken and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _take(self) -> MessageSocket:
        """Give the socket away, right after it was accepted."""
        self._taken = True
        self.connections.discard(self)
        taken = MessageSocket(self.transport, self.connections, self.config.ws_max_size)
        self.transport = _LET_GO
        self.conn = self.scope = self.request = self.response = None  # type: ignore[assignment]
        return taken

    def shutdown(self) -> None:
        """Called when the server stops: clients shall reconnect (1001, where uvicorn's own says 1012)."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        self.conn.send_close(GOING_AWAY, "reconnect")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
