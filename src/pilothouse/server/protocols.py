"""Thin subclasses of uvicorn's protocols: an endpoint may take over its socket and give it to the feed.

``scope["extensions"]`` carries a function that does so (``server/feed_socket.py``, ``server/websocket.py``). The
protocol of uvicorn, the request's scope and the framework's frames are freed then, while the socket stays open.
"""

from __future__ import annotations

from asyncio.transports import Transport
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from pilothouse.access.errors import Refusal
from pilothouse.edge.intake import UNREAD
from pilothouse.edge.streaming import CONNECTION, PATIENCE
from pilothouse.journal.turns import Turns
from pilothouse.server.deadlines import Deadlines
from pilothouse.server.early import early_answer, early_parts
from pilothouse.server.feed_socket import EventSocket
from pilothouse.server.websocket import GOING_AWAY, MessageSocket
from pilothouse.workers.interest import Interest, interest

MAX_HEAD = 64 << 10
"""Bytes of a request line and headers."""

MAX_PIPELINED = 16
"""Pipelined requests on one connection that wait for an earlier answer."""

LINGER = 2.0
"""Seconds that a client has to read an answer that came before it had sent all of its body."""

MAX_DISCARDED = 4 << 20
"""Bytes of such a body that are read and thrown away."""


class _LetGo(Transport):
    """Replaces a transport that was taken over, since uvicorn closes its transport when the endpoint returns."""

    def close(self) -> None:
        """Does nothing: the new protocol closes the transport."""


_LET_GO = _LetGo()


class _Ending:
    """The transport of a request with a body: closing it is left to the protocol."""

    __slots__ = ("_cycle", "_protocol", "is_closing", "write")

    def __init__(self, protocol: HttpProtocol, cycle: Any) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def unread(self) -> bool:
        """Whether a part of the body has not arrived."""
        return bool(self._cycle.more_body)

    def close(self) -> None:
        """Called after the answer."""
        self._cycle.body = bytearray()
        self._protocol.finish(unread=self.unread())


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose socket an event stream can take over. Heads, bodies and answers have bounds and deadlines."""

    _in_head = True
    _head = 0
    _begun = False
    _running: Any = None  # the request that is answered now; others of the connection wait
    _upgraded = False
    _patient = False  # the answer is a stream
    _discarding = False
    _discarded = 0
    abandoned: Callable[[], None] = staticmethod(lambda: None)
    """Called when the client has gone before it had its answer."""

    def connection_made(self, transport: Any) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        self._interest = Interest()
        self.deadlines = Deadlines(self.loop, transport, self._late)
        self.deadlines.expect_head()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self._discarding:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED:
                self.transport.abort()
            return
        self._head += len(data)
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        if self._in_head and self._head > MAX_HEAD:
            self.send_400_response(f"The request line and headers have at most {MAX_HEAD} bytes.")
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            self.deadlines.expect_head()  # the next request has begun, also with empty lines

    def on_message_begin(self) -> None:
        """Called by the parser when a request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise OverflowError("too many requests before the first was answered")  # the parser stops: 400
        self._in_head, self._begun, self._head = True, True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Offer the socket to the endpoint."""
        self._in_head = self._begun = False
        self.deadlines.head_arrived()
        offers: Any = {CONNECTION: self._take, PATIENCE: self._be_patient}
        self.scope["extensions"] = offers
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is not before and _has_body(self.headers):
            # The endpoint has not begun yet.
            ending: Any = _Ending(self, cycle)
            cycle.transport = ending
            offers[UNREAD] = ending.unread
            self.flow.pause_reading()  # until the endpoint asks for the body, which it may refuse
            self.deadlines.expect_body(self.flow)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        async def unless_gone(scope: Any, receive: Any, send: Any) -> None:
            if not cycle.disconnected:
                interest.set(self._interest)  # the task is of this request alone
                await app(scope, receive, send)

        self._running = cycle
        super()._start_asgi_task(cycle, unless_gone)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.deadlines.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a request."""
        self.deadlines.body_arrived()
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # to notice the end of the connection

    def on_response_complete(self) -> None:
        """Called when an answer was written."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.deadlines.expect_reader()

    def handle_websocket_upgrade(self) -> None:
        """Called after a head that asks for a WebSocket."""
        self._upgraded = True
        self.deadlines.cancel()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """Called by the transport: its buffer is full."""
        super().pause_writing()
        if not self._patient:
            self.deadlines.expect_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Called when no next request has begun in time."""
        super().timeout_keep_alive_handler()
        self.deadlines.expect_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self.deadlines.cancel()
        running = self._running
        if self.pipeline or (running is not None and not running.response_complete):
            self.abandoned()
        if running is not None:  # uvicorn tells only the last request
            running.disconnected = running.disconnected or not running.response_complete
            running.message_event.set()
        self.pipeline.clear()
        self._interest.end()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close."""
        self._refuse(Refusal.of("MALFORMED_REQUEST", msg))

    def finish(self, *, unread: bool) -> None:
        """Close the connection. A client that is still sending must be able to read the answer before a reset."""
        if not unread or self.transport.is_closing():
            self.transport.close()
            return
        self._discarding = True
        self.deadlines.cancel()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER, self.transport.abort)

    def _late(self, what: str) -> None:
        if what == "reader" or self.transport.is_closing():
            self.transport.abort()
        elif self.cycle.response_complete if what == "body" else not self._begun:
            self.transport.close()  # nobody waits for an answer
        else:
            self._refuse(Refusal.of("REQUEST_TIMEOUT", f"The {what} of the request took too long"))

    def _refuse(self, refusal: Refusal) -> None:
        cycle = self._running
        self.pipeline.clear()
        if cycle is not None and not cycle.response_complete:
            if (
                cycle.response_started
            ):  # another answer in the middle of this one would be taken for a part of it
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(early_answer(refusal))
        self.finish(unread=True)

    def _be_patient(self) -> None:
        """The answer is a stream, whose reader may be slow (a client of HTTP/1.0; others are taken over)."""
        self._patient = True
        self.deadlines.cancel()

    def _take(self) -> EventSocket:
        """Hand the socket over after the response's head; pipelined requests are dropped."""
        transport, cycle = self.transport, self.cycle
        assert cycle is not None
        self._unset_keepalive_if_required()
        self.deadlines.cancel()
        self.flow.resume_reading()
        self.connections.discard(self)
        taken = EventSocket(transport, self.connections)
        cycle.response_complete = True  # uvicorn has to see the end of the connection
        self.pipeline.clear()
        # Reference cycles would only be freed by the garbage collector, much later.
        self.cycle = self._running = self.parser = self.scope = None  # type: ignore[assignment]
        del self.deadlines
        return taken


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )


class _Handshake(ServerProtocol):
    """Refuses a handshake with the usual error body."""

    def reject(self, status: Any, text: str) -> Response:
        """The answer to a handshake that is invalid, or has failed."""
        code = "MALFORMED_REQUEST" if status < 500 else "INTERNAL_ERROR"
        refusal = Refusal(text.strip(), code=code, status=int(status))
        pairs, body = early_parts(refusal)
        headers = Headers((name.decode(), value.decode()) for name, value in pairs)
        return Response(int(status), HTTPStatus(status).phrase, headers, body)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket whose socket the endpoint takes over once it is accepted. Nothing is read before.

    ``turns`` are for the input of all sockets that were taken over.
    """

    _taken = False

    def __init__(
        self, config: Any, server_state: Any, app_state: Any, _loop: Any = None, *, turns: Turns
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._turns = turns
        self.conn = _Handshake(max_size=config.ws_max_size, logger=self.logger)

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
        taken = MessageSocket(self.transport, self.connections, self.config.ws_max_size, self._turns)
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
