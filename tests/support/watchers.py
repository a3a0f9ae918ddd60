"""Four ways to watch one run, each with a client of its own: SSE, WebSocket, the journal's SSE, the log channel."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from support.messages import check_event

END = "END"
"""The last line of every watched step: the log channel has no other end."""

LOST = (httpx.HTTPError, OSError, WebSocketException, EOFError)


@dataclass(frozen=True)
class Got:
    """One message: the log lines in it, the cursor behind it, and whether it was the last."""

    message: dict[str, Any]
    lines: tuple[str, ...] = ()
    cursor: str | None = None
    last: bool = False


class Surface(Protocol):
    """A stream that can be watched from a cursor on."""

    def watch(self, cursor: str | None) -> AsyncIterator[Got]:
        """Connect and give every message; ends where the server ends it."""


@dataclass(frozen=True)
class Event:
    """One SSE event."""

    id: str
    type: str
    data: str


async def sse_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """The events of an SSE body; comments are skipped."""
    buffer = b""
    async for chunk in chunks:
        buffer += chunk
        *blocks, buffer = buffer.split(b"\n\n")
        for block in blocks:
            fields = [line.partition(": ") for line in block.decode().split("\n") if not line.startswith(":")]
            if fields:
                named = {name: value for name, _, value in fields}
                assert len(named) == len(fields), f"a field came twice: {block!r}"
                check_event(named["event"], named["data"])
                yield Event(named["id"], named["event"], named["data"])


@contextlib.asynccontextmanager
async def sse(
    url: str, token: str | None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    """An open SSE response."""
    given = dict(headers or {})
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(30, read=60)) as client,
        client.stream("GET", url, headers=given) as response,
    ):
        yield response


@contextlib.asynccontextmanager
async def websocket(url: str, token: str | None = None, **more: Any) -> AsyncIterator[ClientConnection]:
    """A WebSocket without limits of its own."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    headers |= more.pop("headers", {})
    ws = await connect(
        url, additional_headers=headers, max_size=None, max_queue=None, ping_interval=None, proxy=None, **more
    )
    try:
        yield ws
    finally:
        # asyncio's own transport cannot be aborted any more when it has closed behind bytes that were still to go.
        with contextlib.suppress(AttributeError):
            await ws.close()


@dataclass(frozen=True)
class RunSse:
    """The run stream as SSE."""

    server: Any
    token: str
    run_id: str

    async def watch(self, cursor: str | None) -> AsyncIterator[Got]:
        url = f"{self.server.url}/api/v1/workflow-runs/{self.run_id}/stream"
        async with sse(url, self.token, {"Last-Event-ID": cursor} if cursor else None) as response:
            assert response.status_code == 200, await response.aread()
            async for event in sse_events(response.aiter_raw()):
                message = json.loads(event.data)
                assert message["type"] == event.type
                yield _run_message(message, event.id)


@dataclass(frozen=True)
class RunWs:
    """The run stream as a WebSocket."""

    server: Any
    token: str
    run_id: str

    async def watch(self, cursor: str | None) -> AsyncIterator[Got]:
        url = f"{self.server.ws}/api/v1/workflow-runs/{self.run_id}/stream?cursor={cursor or 'start'}"
        async with websocket(url, self.token) as ws:
            async for text in ws:
                message = json.loads(text)
                if message["type"] == "heartbeat":
                    await ws.send('{"type":"pong"}')
                else:
                    place = message.pop("cursor", None)  # an error message has none
                    yield _run_message(message, place)
            assert ws.close_code in (1000, 1001), (ws.close_code, ws.close_reason)


def _run_message(message: dict[str, Any], cursor: str | None) -> Got:
    lines = (message["line"],) if message["type"] == "step_log" else ()
    return Got(message, lines, cursor, message["type"] == "workflow_completed")


@dataclass(frozen=True)
class RunEvents:
    """The run's entries on ``/api/v1/events``."""

    server: Any
    token: str
    run_id: str

    async def watch(self, cursor: str | None) -> AsyncIterator[Got]:
        more = f"&cursor={cursor}" if cursor else ""
        url = f"{self.server.url}/api/v1/events?stream=run/{self.run_id}{more}"
        async with sse(url, self.token) as response:
            assert response.status_code == 200, await response.aread()
            async for event in sse_events(response.aiter_raw()):
                message = json.loads(event.data)
                assert message["type"] == event.type
                lines = tuple(message["data"]["lines"]) if event.type == "step.logged" else ()
                yield Got(message, lines, event.id, event.type == "run.completed")


@dataclass(frozen=True)
class LogChannel:
    """``channel_log`` of ``/api/v1/ws``."""

    server: Any
    token: str
    params: Mapping[str, str]

    async def watch(self, cursor: str | None) -> AsyncIterator[Got]:
        async with websocket(f"{self.server.ws}/api/v1/ws", self.token) as ws:
            params = {**self.params, "cursor": cursor or "start"}
            await ws.send(json.dumps({"channel": "channel_log", "params": params}))
            async for text in ws:
                message = json.loads(text)
                place = message.pop("cursor", None)
                data = message["data"] or []
                logs = data if isinstance(data, list) else [data]
                lines = tuple(log["content"] for log in logs)
                yield Got(message, lines, place, END in lines)


async def follow(surface: Surface, *, drop_after: int = 0) -> list[Got]:
    """Watch to the end, coming back with the last cursor whenever the connection is lost, or after so many
    messages on purpose.
    """
    got: list[Got] = []
    cursor: str | None = None
    while True:
        try:
            async with contextlib.aclosing(surface.watch(cursor)) as messages:  # type: ignore[type-var]
                seen = 0
                async for message in messages:
                    got.append(message)
                    if message.last:
                        return got
                    if message.cursor is not None:
                        cursor = message.cursor
                        seen += message.message.get("type") not in ("subscribed", "history_done")
                    if drop_after and seen >= drop_after:
                        break
        except LOST:
            await asyncio.sleep(0.05)  # not for luck: the server is away, and is asked again


async def replay(surface: Surface, cursor: str | None = None) -> list[Got]:
    """Watch once, from a cursor to the end."""
    got = []
    async with contextlib.aclosing(surface.watch(cursor)) as messages:  # type: ignore[type-var]
        async for message in messages:
            got.append(message)
            if message.last:
                break
    return got


def lines_of(got: list[Got]) -> list[str]:
    """All log lines, in order."""
    return [line for message in got for line in message.lines]


async def closing(ws: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """The close code, and what was said before it."""
    said = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            said.append(json.loads(await ws.recv()))
    assert ws.close_code is not None
    return ws.close_code, said
