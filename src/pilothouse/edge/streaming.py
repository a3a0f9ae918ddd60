"""Open streams of callers: selection, authorization and delivery.

Every SSE, WebSocket and gRPC stream of every package uses :class:`Stream`: over a socket that is taken over
from the server (``server/protocols.py``) and passed to the feed, or by awaiting messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from pilothouse.access.model import Principal
from pilothouse.edge.authentication import Authentication
from pilothouse.journal import Feed, Selection, Subscription, WireFormat
from pilothouse.journal.framing import ChunkFramed, WebSocketFramed, chunk
from pilothouse.journal.outlet import Connection, Outlet

PATIENCE = "pilothouse.patience"
"""The key of ``scope["extensions"]`` with the server's function for streams whose socket is not taken over: their
readers may be slow for as long as they are connected, unlike readers of other answers."""

CONNECTION = "pilothouse.connection"
"""The key of ``scope["extensions"]`` with the server's function that takes over the socket."""

SSE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "Content-Type": "text/event-stream",
    "Connection": "close",
}
"""Proxies must neither cache nor buffer events; the connection ends with the stream."""

KEEPALIVE = b":keepalive\n\n"
LAST_CHUNK = b"0\r\n\r\n"
INTERNAL = 1011

Message = str | bytes
"""A message of a WebSocket client."""

OnMessage = Callable[[Message], Coroutine[Any, Any, None] | None]
"""Called with a message; a returned coroutine is awaited before the next message."""


class SocketClosed(Exception):
    """The client has disconnected."""


class EventSocket(Connection, Protocol):
    """The connection of an event stream, taken over from the server."""

    def finish(self, last: bytes) -> None:
        """Write these bytes and close."""


class MessageSocket(Connection, Protocol):
    """An accepted WebSocket, taken over from the server."""

    @property
    def flushed(self) -> bool:
        """Whether the send buffer is empty."""

    def listen(self, listener: OnMessage | None, on_lost: Callable[[], None] | None = None) -> None:
        """Call ``listener`` with every message, and ``on_lost`` when the connection ends."""

    async def receive(self) -> Message:
        """Receive one message, if there is no listener yet. Raises :class:`SocketClosed`."""

    async def drain(self) -> None:
        """Wait until the socket is writable. Raises :class:`SocketClosed`."""

    def say(self, text: bytes) -> None:
        """Send one text message (UTF-8); never waits."""

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake."""


class Stream:
    """A reader with a caller: it ends within 5 s of the token's end, and only delivers what the user may see.

    ``scope`` is that of all entries of the stream; ``None`` for the whole journal, whose entries are checked
    one by one.
    """

    def __init__(
        self, authentication: Authentication, feed: Feed, principal: Principal, scope: str | None
    ) -> None:
        self._feed = feed
        self._scope = scope
        self._part: Outlet | Subscription | None = None
        self.authorization = authentication.authorize(principal)
        self.forbidden = False

    async def open(self, selection: Selection, fmt: WireFormat, *, cursor: str) -> Stream:
        """Create the reader at ``cursor``. Raises the journal's cursor errors."""
        try:
            self.reader = await self._feed.reader(selection, fmt, self.authorization.sees, cursor)
        except BaseException:
            self.authorization.close()
            raise
        self.authorization.on_end(self.stop)
        if self._scope is not None:
            self.authorization.on_change(self._recheck)
        return self

    @property
    def finished(self) -> bool:
        """Whether the stream is complete, as opposed to stopped."""
        return self.reader.ended or (isinstance(self._part, Outlet) and self._part.finished)

    @property
    def unauthorized(self) -> bool:
        """Whether the caller's token is no longer valid."""
        return self.authorization.reason is not None

    def follow(self) -> Subscription:
        """Subscribe; messages are then awaited."""
        part = self._part = self._feed.follow(self.reader)
        self._recheck_soon(part)
        return part

    def hand_over(
        self, connection: Connection, on_end: Callable[[Outlet], None], live: WireFormat | None = None
    ) -> Outlet:
        """Let the feed write to the connection (:meth:`Feed.hand_over`); call :meth:`Outlet.pump` to start."""
        part = self._part = self._feed.hand_over(self.reader, connection, on_end, live)
        self._recheck_soon(part)
        return part

    def stop(self) -> None:
        """Write nothing more."""
        if self._part is not None:
            self._part.stop()

    def close(self) -> None:
        """End the stream; must always be called."""
        self.authorization.close()
        self.stop()
        if isinstance(self._part, Subscription):
            self._part.close()

    def _recheck_soon(self, part: Outlet | Subscription) -> None:
        # The right to read may have ended before the stream was open.
        if self.unauthorized or self.forbidden:
            asyncio.get_running_loop().call_soon(part.stop)

    def _recheck(self) -> None:
        if self._scope is not None and not self.authorization.sees(self._scope):
            self.forbidden = True
            self.stop()


class EventStream(Response):
    """An open stream as ``text/event-stream``; a comment after ``keepalive`` seconds of silence."""

    def __init__(self, stream: Stream, feed: Feed, keepalive: float, *, preamble: bytes = b":\n\n") -> None:
        # The preamble is sent immediately, so that proxies and clients see the response start.
        super().__init__(headers=SSE_HEADERS)
        self._stream = stream
        self._feed = feed
        self._keepalive = keepalive
        self._preamble = preamble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the socket to the feed, or, if the server does not offer it, serve until the stream or the
        client ends."""
        headers = [(k.encode(), v.encode()) for k, v in SSE_HEADERS.items()]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._preamble, "more_body": True})
            take = scope.get("extensions", {}).get(CONNECTION)
            if take is not None and scope["http_version"] == "1.1":
                _Events(self._stream, self._feed, self._keepalive, take()).begin()
                return
            patient: Callable[[], None] | None = scope.get("extensions", {}).get(PATIENCE)
            if patient is not None:
                patient()
            await self._by_hand(receive, send)
        except BaseException:
            self._stream.close()
            raise
        self._stream.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _by_hand(self, receive: Receive, send: Send) -> None:
        subscription = self._stream.follow()
        leaving = asyncio.create_task(_until_disconnect(receive))
        leaving.add_done_callback(lambda _: subscription.stop())
        try:
            while True:
                messages: list[bytes] | None = None
                try:
                    async with asyncio.timeout(self._keepalive):
                        messages = await subscription.next()
                except TimeoutError:
                    messages = [KEEPALIVE]
                if not messages:
                    return
                await send({"type": "http.response.body", "body": b"".join(messages), "more_body": True})
        finally:
            leaving.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Events:
    """An event stream on a socket of the feed: keepalives and the end."""

    __slots__ = ("_feed", "_keepalive", "_outlet", "_socket", "_stream")

    def __init__(self, stream: Stream, feed: Feed, keepalive: float, socket: EventSocket) -> None:
        stream.reader.fmt = ChunkFramed(stream.reader.fmt)
        self._stream = stream
        self._feed = feed
        self._keepalive = keepalive
        self._socket = socket
        self._outlet = stream.hand_over(socket, self._ended)
        self._outlet.last_write = feed.clock()

    def begin(self) -> None:
        """Start writing; the feed does the rest."""
        self._feed.timers.schedule(self, self._outlet.last_write + self._keepalive)
        self._outlet.pump()

    def tick(self, now: float) -> None:
        """Send a keepalive if the stream was silent for long."""
        if now - self._outlet.idle_since() >= self._keepalive and self._socket.writable:
            self._outlet.last_write = now
            self._socket.write(_COMMENT)
        self._feed.timers.schedule(self, max(self._outlet.idle_since() + self._keepalive, now))

    def _ended(self, _outlet: Outlet) -> None:
        self._feed.timers.cancel(self)
        self._stream.close()
        self._socket.finish(LAST_CHUNK)


_COMMENT = chunk(KEEPALIVE)


@contextlib.asynccontextmanager
async def accepted(ws: WebSocket) -> AsyncIterator[MessageSocket]:
    """Accept a WebSocket and take it over from the server; it stays open after the endpoint has returned.

    A client that disconnects (:class:`SocketClosed`) is not an error; other exceptions close the socket with
    1011.
    """
    await ws.accept()
    socket: MessageSocket = ws.scope["extensions"][CONNECTION]()
    try:
        yield socket
    except SocketClosed:
        return
    except BaseException:
        socket.close(INTERNAL, "internal error")
        raise


def framed(fmt: WireFormat) -> WireFormat:
    """A format's messages as frames of a WebSocket."""
    return WebSocketFramed(fmt)


def wanted_cursor(query: str | None, last_event_id: str | None, default: str) -> str:
    """The requested cursor: ``Last-Event-ID``, otherwise ``?cursor=``, otherwise ``default``.

    A browser's EventSource reconnects with its original URL; only the header has its position.
    """
    return last_event_id or query or default
