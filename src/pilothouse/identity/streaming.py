"""One open stream of one caller: what it follows, until it ends, stops, or its token does.

Every SSE, WebSocket and gRPC stream of every package is served through :class:`Stream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse

from pilothouse.identity.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.journal import Feed, Selection, WireFormat

SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nobody between us and the reader may keep or hold back events."""

KEEPALIVE = b":keepalive\n\n"


class Stream:
    """A subscription under a guard: it ends within 5 s of its token's end, and shows only what its user may see."""

    def __init__(self, identity: Identity, feed: Feed, principal: Principal) -> None:
        self._feed = feed
        self.guard = identity.guard(principal)

    async def open(self, selection: Selection, fmt: WireFormat, *, cursor: str) -> Stream:
        """Start following. Raises the journal's cursor errors."""
        try:
            self.subscription = await self._feed.subscribe(selection, fmt, self.guard.sees, cursor=cursor)
        except BaseException:
            self.guard.close()
            raise
        self.guard.on_end(self.subscription.stop)
        return self

    @property
    def finished(self) -> bool:
        """Whether the stream came to its own end, as against being stopped."""
        return self.subscription.reader.ended

    @property
    def unauthorized(self) -> bool:
        """Whether the caller's token ended."""
        return self.guard.reason is not None

    async def next(self, patience: float | None = None) -> list[bytes] | None:
        """The next messages; ``[]`` at the end of the stream, ``None`` after ``patience`` seconds of nothing."""
        if patience is None:
            return await self.subscription.next()
        try:
            async with asyncio.timeout(patience):
                return await self.subscription.next()
        except TimeoutError:
            return None

    def close(self) -> None:
        """Leave; always call this."""
        self.subscription.close()
        self.guard.close()


def sse_response(stream: Stream, keepalive: float, *, preamble: bytes = b"") -> StreamingResponse:
    """An open stream as ``text/event-stream``; a comment every ``keepalive`` seconds of silence."""

    async def body() -> AsyncIterator[bytes]:
        try:
            # Something at once, so that proxies and clients see the stream begin.
            yield preamble or b":\n\n"
            while True:
                messages = await stream.next(keepalive)
                if messages is None:
                    yield KEEPALIVE
                elif not messages:
                    return
                else:
                    yield b"".join(messages)
        finally:
            stream.close()

    return StreamingResponse(body(), media_type="text/event-stream", headers=SSE_HEADERS)


def wanted_cursor(query: str | None, last_event_id: str | None, default: str) -> str:
    """Where a reader wants to begin: ``Last-Event-ID``, else ``?cursor=``, else ``default``.

    A browser's EventSource repeats its first address when it reconnects; only the header knows its place.
    """
    return last_event_id or query or default
