"""Slow and broken networks: connections that are begun and not continued."""

from __future__ import annotations

import asyncio
import contextlib
import time

from faults.neighbours.client import Client
from faults.neighbours.ground import Ground, all_of
from faults.neighbours.table import abuse

MANY = 500
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END = 12.0
"""Seconds after which the server must have closed what is still not a request: a head has 10 s."""


async def _open(ground: Ground, first: bytes, *, port: int = 0) -> asyncio.StreamReader | None:
    client = Client(port or ground.given["port"], ground.client.source)
    try:
        reader, writer = await client.open(limit=1 << 16)
    except OSError:
        ground.count("closed")
        return None
    ground.stack.callback(writer.transport.abort)
    writer.write(first)
    ground.kept.setdefault("open", []).append((reader, writer, time.monotonic()))
    return reader


async def _fill(ground: Ground, first: bytes, *, port: int = 0) -> None:
    """Keep as many open as are let in, and send a byte on each now and then."""
    opened = [pair for pair in ground.kept.get("open", ()) if not pair[0].at_eof()]
    ground.kept["open"] = opened
    if not ground.kept.get("full"):
        await all_of((_open(ground, first, port=port) for _ in range(MANY)), 100)
        ground.kept["full"] = True
    await asyncio.sleep(0.4)


async def _all_closed(ground: Ground) -> None:
    """Each is told why, or closed, in its time."""
    closed = left = 0

    async def one(reader: asyncio.StreamReader, began: float) -> bytes | None:
        try:
            async with asyncio.timeout(max(0.1, began + END - time.monotonic())):
                with contextlib.suppress(OSError):
                    while await reader.read(1 << 16):
                        pass
        except TimeoutError:
            return None
        return b""

    for answer in await asyncio.gather(
        *(one(reader, began) for reader, _, began in ground.kept.get("open", ()))
    ):
        closed, left = closed + (answer is not None), left + (answer is None)
    ground.count("closed") if closed else None
    if left:
        ground.count(f"{left} of {left + closed} still open after {END:.0f} s ?")


@abuse("half heads", "slow network", ("closed",), cut=True, after=_all_closed)
async def half_heads(ground: Ground) -> None:
    """500 connections with half a head."""
    await _fill(ground, b"GET /api/v1/workflow-runs HTTP/1.1\r\nHost: x\r\nX-A: ")


@abuse("half handshakes", "slow network", ("closed",), cut=True, after=_all_closed)
async def half_handshakes(ground: Ground) -> None:
    """500 connections with half of a WebSocket's handshake."""
    await _fill(
        ground, b"GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec"
    )


@abuse("half bodies", "slow network", ("closed",), cut=True, after=_all_closed)
async def half_bodies(ground: Ground) -> None:
    """500 connections with half a body of a MB, to the one route with a body that is open to all."""
    head = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    await _fill(ground, head + b'{"username": "' + b"x" * 60_000)


@abuse("half uploads", "slow network", ("closed",), cut=True, after=_all_closed)
async def half_uploads(ground: Ground) -> None:
    """Half an upload on each of many connections of users who may upload."""
    token = ground.token("user").encode()
    head = b"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 200000000\r\n\r\n"
    await _fill(ground, head % token + b"x" * 60_000)


@abuse("silent connections", "slow network", ("closed",), cut=True, after=_all_closed)
async def silent(ground: Ground) -> None:
    """500 that say nothing at all."""
    await _fill(ground, b"")


@abuse("silent HTTP/2", "slow network", cut=True)
async def silent_http2(ground: Ground) -> None:
    """500 to the gRPC port that say the preface, some settings, and nothing more."""
    port = int(ground.given["grpc"].rpartition(":")[2])
    await _fill(ground, PREFACE + b"\0\0\0\4\0\0\0\0\0", port=port)
    ground.count("OK")


@abuse("come and go", "slow network", cut=True)
async def come_and_go(ground: Ground) -> None:
    """Connections that ask and are gone before there is an answer."""
    token = ground.token("viewer").encode()
    request = b"GET /api/v1/workflow-runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % token

    async def one() -> None:
        with contextlib.suppress(OSError):
            _, writer = await ground.client.open()
            writer.write(request * 3)
            writer.transport.abort()
            ground.count("OK")

    await all_of((one() for _ in range(100)), 50)


@abuse("a byte at a time", "slow network", cut=True)
async def a_byte_at_a_time(ground: Ground) -> None:
    """A hundred legal requests that come a byte at a time."""
    token = ground.token("viewer").encode()
    request = (
        b"GET /api/v1/auth/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n"
        % token
    )

    async def one() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await ground.client.open()
            for n in range(len(request)):
                writer.write(request[n : n + 1])
                await asyncio.sleep(0.005)
            first = await reader.read(1 << 16)
            ground.count(
                "429 RATE_LIMIT_EXCEEDED" if b" 429 " in first[:20] else first[9:12].decode() or "closed"
            )
            writer.transport.abort()

    await all_of((one() for _ in range(100)), 100)
