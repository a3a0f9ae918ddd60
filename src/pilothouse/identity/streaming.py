"""One open stream of one caller: what it follows, until it ends, stops, or its token does.

Every SSE, WebSocket and gRPC stream of every package is served through :class:`Stream`: over a socket handed to
the feed where the server lets us have it (``server/protocols.py``), else by awaiting messages.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from pilothouse.identity.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.journal import Feed, Selection, Subscription, WireFormat
from pilothouse.journal.framing import ChunkFramed, WebSocketFramed, chunk
from pilothouse.journal.outlet import Connection, Outlet

CONNECTION = "pilothouse.connection"
"""The key of ``scope["extensions"]`` under which the server offers its socket: call it to get the connection."""

SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Content-Type": "text/event-stream"}
"""Nobody between us and the reader may keep or hold back events."""

KEEPALIVE = b":keepalive\n\n"


class SocketConnection(Connection, Protocol):
    """A WebSocket handed to the feed."""

    @property
    def flushed(self) -> bool:
        """Whether every byte has left our buffer."""

    def interrupt(self) -> None:
        """Make a pending ``receive`` return a disconnect, so that its coroutine can go on."""


class Stream:
    """A reader under a guard: it ends within 5 s of its token's end, and shows only what its user may see.

    ``scope`` is that of every entry of the stream; ``None`` for the whole journal, whose entries are tested
    one by one.
    """

    def __init__(self, identity: Identity, feed: Feed, principal: Principal, scope: str | None) -> None:
        self._feed = feed
        self._scope = scope
        self._stops: list[Outlet | Subscription] = []
        self.guard = identity.guard(principal)
        self.forbidden = False

    async def open(self, selection: Selection, fmt: WireFormat, *, cursor: str) -> Stream:
        """Take the place to read from. Raises the journal's cursor errors."""
        try:
            self.reader = await self._feed.reader(selection, fmt, self.guard.sees, cursor)
        except BaseException:
            self.guard.close()
            raise
        self.guard.on_end(self.stop)
        if self._scope is not None:
            self.guard.on_change(self._recheck)
        return self

    @property
    def finished(self) -> bool:
        """Whether the stream came to its own end, as against being stopped."""
        return self.reader.ended or any(isinstance(s, Outlet) and s.finished for s in self._stops)

    @property
    def unauthorized(self) -> bool:
        """Whether the caller's token ended."""
        return self.guard.reason is not None

    def follow(self) -> Subscription:
        """Messages to be awaited."""
        subscription = self._feed.follow(self.reader)
        self._stops.append(subscription)
        return subscription

    def hand_over(self, connection: Connection) -> Outlet:
        """The feed writes to the connection itself; call :meth:`Outlet.pump` to begin."""
        outlet = self._feed.hand_over(self.reader, connection)
        self._stops.append(outlet)
        return outlet

    def stop(self) -> None:
        """Write nothing more."""
        for part in self._stops:
            part.stop()

    def close(self) -> None:
        """Leave; always call this."""
        self.guard.close()
        for part in self._stops:
            part.stop()
            if isinstance(part, Subscription):
                part.close()

    def _recheck(self) -> None:
        if self._scope is not None and not self.guard.sees(self._scope):
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
        """Serve until the stream ends or the client leaves; either may come first."""
        headers = [(k.encode(), v.encode()) for k, v in SSE_HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._preamble, "more_body": True})
        open_connection = scope.get("extensions", {}).get(CONNECTION)
        try:
            if open_connection is not None and scope["http_version"] == "1.1":
                await self._by_feed(open_connection())
            else:
                await self._by_hand(receive, send)
        finally:
            self._stream.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _by_feed(self, connection: Connection) -> None:
        self._stream.reader.fmt = ChunkFramed(self._stream.reader.fmt)
        outlet = self._stream.hand_over(connection)
        comment = chunk(KEEPALIVE)

        def tick(now: float) -> None:
            if now - outlet.idle_since() >= self._keepalive and connection.writable:
                outlet.last_write = now
                outlet.write(comment)

        outlet.last_write = self._feed.clock()
        self._feed.on_tick(outlet, tick)
        try:
            outlet.pump()
            await asyncio.shield(outlet.done)
        finally:
            self._feed.off_tick(outlet)

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


def socket_connection(ws: WebSocket) -> SocketConnection:
    """The socket under a WebSocket, for the feed to write to."""
    connection: SocketConnection = ws.scope["extensions"][CONNECTION]()
    return connection


def framed(fmt: WireFormat) -> WireFormat:
    """A format's messages as frames of a WebSocket."""
    return WebSocketFramed(fmt)


def wanted_cursor(query: str | None, last_event_id: str | None, default: str) -> str:
    """Where a reader wants to begin: ``Last-Event-ID``, else ``?cursor=``, else ``default``.

    A browser's EventSource repeats its first address when it reconnects; only the header knows its place.
    """
    return last_event_id or query or default
