"""Readers made of bare sockets: many at little cost, and as rude as a test wants them.

They read the run's entries on ``/api/v1/events`` (SSE) or the run stream (WebSocket), and keep count of the lines
rather than the lines: each must be the one that follows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import pytest

from support.server import Server

OPENING, PING, PONG, TEXT, CLOSE = 0, 9, 10, 1, 8


def sse_request(path: str, token: str, cursor: str = "") -> bytes:
    """The head of a GET for an event stream."""
    resume = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{resume}\r\n".encode()


def ws_request(path: str, token: str = "") -> bytes:
    """The head of a WebSocket handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    allowed = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{allowed}"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def masked(opcode: int, payload: bytes, *, fin: bool = True, size: int | None = None) -> bytes:
    """A client's frame; its mask is zero, which is a mask. ``size``: what the header claims."""
    said = len(payload) if size is None else size
    head = bytes(((0x80 if fin else 0) | opcode,))
    if said < 126:
        head += bytes((0x80 | said,))
    elif said < 65536:
        head += b"\xfe" + said.to_bytes(2, "big")
    else:
        head += b"\xff" + said.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


async def sse_messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
    """Cursor and data of each event of a chunked response; comments are skipped."""
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        rest += await reader.readexactly(size)
        await reader.readexactly(2)
        *events, rest = rest.split(b"\n\n")
        for event in events:
            if not event.startswith(b":"):
                first, _, data = event.split(b"\n", 2)
                yield first[4:].decode(), data[6:]


async def ws_messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
    """Cursor and text of each message of a WebSocket; ends at its close frame."""
    while True:
        head = await reader.readexactly(2)
        size = head[1]
        if size > 125:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        payload = await reader.readexactly(size)
        if head[0] & 15 == CLOSE:
            return
        if head[0] & 15 == TEXT:
            yield orjson.loads(payload).get("cursor", ""), payload


@dataclass
class Reader:
    """One reader of a run whose only step prints ``line 1``, ``line 2``, … It counts, and times what it gets."""

    server: Server
    token: str
    run_id: str
    kind: str = "sse"
    cursor: str = ""
    lines: int = 0
    ended: bool = False
    delays: list[float] = field(default_factory=list)

    @property
    def request(self) -> bytes:
        """What opens the stream where it was left."""
        if self.kind == "sse":
            return sse_request(f"/api/v1/events?stream=run/{self.run_id}", self.token, self.cursor)
        path = f"/api/v1/workflow-runs/{self.run_id}/stream?cursor={self.cursor or 'start'}"
        return ws_request(path, self.token)

    async def read(self, *, stop_after: int = 0, sock: socket.socket | None = None) -> None:
        """To the end, or for so many lines; ``sock``: on a connection that has been open for a while."""
        port = self.server.settings["port"]
        how: dict[str, Any] = {"sock": sock} if sock else {"host": "127.0.0.1", "port": port}
        reader, writer = await asyncio.open_connection(limit=1 << 22, **how)
        try:
            if sock is None:
                writer.write(self.request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] in (b"200", b"101"), head
            messages = sse_messages(reader) if self.kind == "sse" else ws_messages(reader)
            async with contextlib.aclosing(messages):
                async for cursor, data in messages:
                    self._take(cursor, orjson.loads(data))
                    if self.ended or (stop_after and self.lines >= stop_after):
                        return
        finally:
            writer.transport.abort()

    async def follow(self, timeout: float = 60) -> None:
        """To the end, coming back as often as it takes."""
        async with asyncio.timeout(timeout):
            while not self.ended:
                try:
                    await self.read()
                except (OSError, EOFError):
                    await asyncio.sleep(0.05)  # the server is away, and is asked again

    def _take(self, cursor: str, message: dict[str, Any]) -> None:
        self.cursor = cursor or self.cursor
        kind = message["type"]
        if kind in ("run.completed", "workflow_completed"):
            self.ended = True
        elif kind == "step.logged":
            self.delays.append(time.time() - datetime.fromisoformat(message["time"]).timestamp())
            self._count(message["data"]["lines"])
        elif kind == "step_log":
            self._count([message["line"]])

    def _count(self, lines: list[str]) -> None:
        following = [f"line {n}" for n in range(self.lines + 1, self.lines + 1 + len(lines))]
        assert lines == following, f"after line {self.lines} came {lines[0]} … {lines[-1]}"
        self.lines += len(lines)


def stalled(reader: Reader) -> socket.socket:
    """Open its stream and read nothing; its kernel takes as little as it can."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", reader.server.settings["port"]))
    sock.sendall(reader.request)
    return sock


@contextlib.contextmanager
def connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Open this many connections; closes them at the end."""
    socks = []
    try:
        for _ in range(count):
            socks.append(socket.create_connection(("127.0.0.1", server.settings["port"]), timeout=10))
        yield socks
    finally:
        for sock in socks:
            sock.close()


def room_for(sockets: int) -> None:
    """See to it that this process may have so many open; skips where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < sockets:
        pytest.skip(f"this needs {sockets} open files, and the hard limit here is {hard}")
    if soft != resource.RLIM_INFINITY and soft < sockets:
        resource.setrlimit(resource.RLIMIT_NOFILE, (sockets, hard))


def followers(server: Server) -> int:
    """Number of open streams according to the server."""
    text = server.call("GET", "/metrics", None).text
    return int(
        next(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("pilothouse_stream_followers ")
        )
    )
