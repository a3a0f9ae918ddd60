"""A TCP proxy that re-segments a server's bytes and closes the connection at configured positions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

Sizes = Callable[[], Iterator[int]]
"""The sizes of the pieces of one connection, without end."""

SILENCE = 0.05
"""Seconds after which an incomplete piece is sent because the server is idle."""


class Recut:
    """Lives on the loop of the test: what it writes in one piece the client's socket has, mostly, in one piece.

    ``breaks`` gives, for each connection, the bytes of the response after which it is broken off: abruptly and by an
    ordinary end in turns.
    """

    def __init__(self, port: int, sizes: Sizes, breaks: Iterator[int] | None) -> None:
        self._port = port
        self._sizes = sizes
        self._breaks = breaks
        self.url = ""
        self.accepted = 0
        self.broken = 0
        self.pieces = 0
        self.passed = 0
        """Bytes that came through from the server."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one side ends it."""
        self.accepted += 1
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asking = asyncio.create_task(self._ask(reader, forth))
        try:
            await self._answer(back, writer)
        except OSError:
            pass  # the client has what it wants
        finally:
            asking.cancel()
            forth.transport.abort()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                forth.write(data)
        forth.transport.abort()

    async def _answer(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sizes, left = self._sizes(), None if self._breaks is None else next(self._breaks)
        waiting, size = b"", next(sizes)
        while True:
            try:
                async with asyncio.timeout(SILENCE if waiting else None):
                    data = await back.read(1 << 16)
            except TimeoutError:
                data, size = b"", len(waiting)
            else:
                size = size if data else len(waiting)
            waiting += data
            while waiting and len(waiting) >= size:
                piece, waiting = waiting[:size], waiting[size:]
                if left is not None and len(piece) >= left:
                    await self._break_off(piece[:left], writer)
                    return
                left = None if left is None else left - len(piece)
                await self._pass(piece, writer)
                size = next(sizes)
            if not data and back.at_eof():
                return

    async def _pass(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        self.pieces += 1
        self.passed += len(piece)
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # let the client read this piece separately

    async def _break_off(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        await self._pass(piece, writer)
        self.broken += 1
        if self.broken % 2:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def recut(port: int, sizes: Sizes, breaks: Iterator[int] | None = None) -> AsyncIterator[Recut]:
    """Such a proxy in front of a server on this machine."""
    made = Recut(port, sizes, breaks)
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with listener:
        made.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield made
