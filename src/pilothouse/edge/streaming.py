"""One open stream of one caller: what it follows, until it ends, stops, or its token does.

Every SSE, WebSocket and gRPC stream of every package is served through :class:`Stream`: over a socket taken from the
server (``server/protocols.py``) and handed to the feed, else by awaiting messages.
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

CONNECTION = "pilothouse.connection"
"""The key of ``scope["extensions"]`` under which the server offers the socket: whoever calls it takes the socket."""

SSE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "Content-Type": "text/event-stream",
    "Connection": "close",
}
"""Nobody between us and the reader may keep or hold back events; the connection ends with the stream."""

KEEPALIVE = b":keepalive\n\n"
LAST_CHUNK = b"0\r\n\r\n"
INTERNAL = 1011

Message = str | bytes
"""What a WebSocket's client says."""

OnMessage = Callable[[Message], Coroutine[Any, Any, None] | None]
"""Told of a message; where it gives a coroutine, that is carried out before the next message is told."""


class SocketClosed(Exception):
    """The client has left."""


class EventSocket(Connection, Protocol):
    """The connection of an event stream, taken from the server."""

    def finish(self, last: bytes) -> None:
        """Write these bytes and close."""


class MessageSocket(Connection, Protocol):
    """An accepted WebSocket, taken from the server."""

    @property
    def flushed(self) -> bool:
        """Whether every byte has left our buffer."""

    def listen(self, listener: OnMessage | None, on_lost: Callable[[], None] | None = None) -> None:
        """Tell every message to this listener, and the other of the end."""

    async def receive(self) -> Message:
        """One message, before there is a listener. Raises :class:`SocketClosed`."""

    async def drain(self) -> None:
        """Wait until the socket takes more. Raises :class:`SocketClosed`."""

    def say(self, text: bytes) -> None:
        """Send one text message (UTF-8); never waits."""

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake."""


class Stream:
    """A reader with a caller: it ends within 5 s of its token's end, and shows only what its user may see.

    ``scope`` is that of every entry of the stream; ``None`` for the whole journal, whose entries are tested
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
        """Take the place to read from. Raises the journal's cursor errors."""
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
        """Whether the stream came to its own end, as against being stopped."""
        return self.reader.ended or (isinstance(self._part, Outlet) and self._part.finished)

    @property
    def unauthorized(self) -> bool:
        """Whether the caller's token ended."""
        return self.authorization.reason is not None

    def follow(self) -> Subscription:
        """Messages to be awaited."""
        part = self._part = self._feed.follow(self.reader)
        self._recheck_soon(part)
        return part

    def hand_over(
        self, connection: Connection, on_end: Callable[[Outlet], None], live: WireFormat | None = None
    ) -> Outlet:
        """The feed writes to the connection itself (:meth:`Feed.hand_over`); call :meth:`Outlet.pump` to begin."""
        part = self._part = self._feed.hand_over(self.reader, connection, on_end, live)
        self._recheck_soon(part)
        return part

    def stop(self) -> None:
        """Write nothing more."""
        if self._part is not None:
            self._part.stop()

    def close(self) -> None:
        """Leave; always call this."""
        self.authorization.close()
        self.stop()
        if isinstance(self._part, Subscription):
            self._part.close()

    def _recheck_soon(self, part: Outlet | Subscription) -> None:
        # The right to read may have ended before there was anything to stop.
        if self.unauthorized or self.forbidden:
            asyncio.get_running_loop().call_soon(part.stop)

    def _recheck(self) -> None:
        if self._scope is not None and not self.authorization.sees(self._scope):
            self.forbidden = True
            self.stop()


class EventStream(Response):
    """An open stream as ``text/event-stream``; a comment after ``keepalive`` seconds of silence."""

    def __init__(self, stream: Stream, feed: Feed, keepalive: float, *, preamble: bytes = b":\n\n") -> None:
        # Something goes out at once, so that proxies and clients see the stream begin.
        super().__init__(headers=SSE_HEADERS)
        self._stream = stream
        self._feed = feed
        self._keepalive = keepalive
        self._preamble = preamble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the socket to the feed, or (where there is none to have) serve until the stream or the client ends."""
        headers = [(k.encode(), v.encode()) for k, v in SSE_HEADERS.items()]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._preamble, "more_body": True})
            take = scope.get("extensions", {}).get(CONNECTION)
            if take is not None and scope["http_version"] == "1.1":
                _Events(self._stream, self._feed, self._keepalive, take()).begin()
                return
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
    """An event stream on a socket of the feed's: keepalives, and the end."""

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
        """Write what is there; the rest goes by itself."""
        self._feed.timers.schedule(self, self._outlet.last_write + self._keepalive)
        self._outlet.pump()

    def tick(self, now: float) -> None:
        """Say something if it has been silent for long."""
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
    """Accept a WebSocket and take it from the server; it lives on when the endpoint has returned.

    A client that leaves meanwhile (:class:`SocketClosed`) is nobody's fault; a bug closes the socket with 1011.
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
    """Where a reader wants to begin: ``Last-Event-ID``, else ``?cursor=``, else ``default``.

    A browser's EventSource repeats its first address when it reconnects; only the header knows its place.
    """
    return last_event_id or query or default
