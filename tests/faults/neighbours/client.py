"""HTTP over bare sockets, from a chosen loopback address: little work for the client, and no manners."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from support.faults.readers import CLOSE, TEXT, masked, ws_request

PATIENCE = 30.0
LIMIT = 64 << 20
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Answer:
    """``status`` 0: the connection was closed without an answer."""

    status: int
    body: bytes = b""

    @property
    def outcome(self) -> str:
        """``200``, ``429 RATE_LIMIT_EXCEEDED``, or ``closed``; an error whose body is none of ours: ``500 ?``."""
        if not self.status:
            return "closed"
        if self.status < 400:
            return str(self.status)
        with contextlib.suppress(ValueError, AttributeError):
            found = json.loads(self.body)
            code = found.get("errorCode") or found.get("code")
            return f"{self.status} {code if isinstance(code, str) and found.get('errMsg', found.get('message')) else '?'}"
        return f"{self.status} ?"


def head(
    method: str, path: str, token: str = "", length: int | None = None, *, close: bool = True, more: str = ""
) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += ["Connection: close"] if close else []
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


@dataclass(frozen=True)
class Client:
    """Requests to one server. ``source``: the address that they come from."""

    port: int
    source: str = "127.0.0.1"

    async def open(self, *, limit: int = 1 << 20) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.source, 0), limit=limit)

    async def ask(
        self,
        method: str,
        path: str,
        token: str = "",
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        more: str = "",
    ) -> Answer:
        """One request on a connection of its own. What refuses the connection counts as ``closed``."""
        path = path if path.startswith("/") else f"/api/v1/{path}"
        typed = f"Content-Type: {kind}\r\n" if body is not None else ""
        request = head(method, path, token, None if body is None else len(body), more=typed + more)
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await self.open()
                writer.write(request + (body or b""))
                got = bytearray()
                with contextlib.suppress(OSError):
                    while (data := await reader.read(1 << 18)) and len(got) < LIMIT:
                        got += data
                return parsed(bytes(got))
        except OSError:
            return Answer(0)
        finally:
            if writer is not None:
                writer.transport.abort()

    @contextlib.asynccontextmanager
    async def events(self, path: str, token: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The ``data`` of each event of an SSE stream."""
        reader, writer = await self.open(limit=4 << 20)
        try:
            writer.write(head("GET", path, token, close=False))
            first = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in first[:20]:
                raise ConnectionError(f"{path}: {first[:40]!r} {await reader.read(500)!r}")
            yield _data(reader)
        finally:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def socket(self, path: str, token: str) -> AsyncIterator[Socket]:
        """A WebSocket."""
        reader, writer = await self.open(limit=4 << 20)
        try:
            writer.write(ws_request(path, token))
            first = await reader.readuntil(b"\r\n\r\n")
            yield Socket(reader, writer, int(first.split()[1]))
        finally:
            writer.transport.abort()


@dataclass(frozen=True)
class Socket:
    """An open WebSocket; ``status`` is that of the handshake."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int

    def say(self, text: str) -> None:
        """Send a message."""
        self.writer.write(masked(TEXT, text.encode()))

    async def hear(self) -> bytes | int:
        """The next message, or the close code."""
        while True:
            opcode, size = await self.reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            payload = await self.reader.readexactly(size)
            if opcode & 15 == CLOSE:
                return int.from_bytes(payload[:2], "big")
            if opcode & 15 == TEXT:
                return payload


def parsed(got: bytes) -> Answer:
    """The answer in these bytes."""
    if not got.startswith(b"HTTP/1.1 "):
        return Answer(0)
    first, _, body = got.partition(b"\r\n\r\n")
    return Answer(int(first[9:12]), body)


async def _data(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        rest += await reader.readexactly(size)
        await reader.readexactly(2)
        *events, rest = rest.split(b"\n\n")
        for event in events:
            if b"data: " in event:
                yield event.rpartition(b"data: ")[2]
