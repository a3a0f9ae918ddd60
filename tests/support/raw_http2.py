"""A gRPC client made of HTTP/2 frames, which can leave a message unfinished and keeps nothing of it in memory."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
FRAME = 16_384
_ZEROS = bytes(FRAME)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literals(pairs: Iterable[tuple[str, str]]) -> bytes:
    # HPACK, literal header fields without indexing; names and values have at most 126 characters.
    found = bytearray()
    for pair in pairs:
        found.append(0)
        for word in pair:
            found.append(len(word))
            found += word.encode()
    return bytes(found)


class RawHttp2:
    """One connection. ``ended``: the streams that the server has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._window = 65_535
        self._windows: dict[int, int] = {}
        self._initial = 65_535
        self._next = 1
        self._changed = asyncio.Event()
        self.ended: set[int] = set()
        self.closed = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: str) -> RawHttp2:
        """Connect, and say the preface."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b""))
        return cls(reader, writer)

    def call(self, method: str, metadata: Iterable[tuple[str, str]] = ()) -> int:
        """Begin a call of ``package.Service/Method``; its stream."""
        stream, self._next = self._next, self._next + 2
        self._windows[stream] = self._initial
        first = [(":method", "POST"), (":scheme", "http"), (":path", f"/{method}"), (":authority", "x")]
        first += [("content-type", "application/grpc"), ("te", "trailers"), *metadata]
        self._writer.write(_frame(HEADERS, END_HEADERS, stream, _literals(first)))
        return stream

    async def message(self, stream: int, size: int, sent: int) -> int:
        """The head of a message of ``size`` bytes and ``sent`` of its bytes; how many were sent before the end."""
        await self._data(stream, b"\0" + struct.pack(">I", size))
        done = 0
        while done < sent and stream not in self.ended and not self.closed:
            part = min(FRAME, sent - done)
            await self._data(stream, _ZEROS[:part])
            done += part
        return done

    async def _data(self, stream: int, payload: bytes) -> None:
        while min(self._window, self._windows[stream]) < len(payload):
            if stream in self.ended or self.closed:
                return
            self._changed.clear()
            await self._changed.wait()
        self._window -= len(payload)
        self._windows[stream] -= len(payload)
        self._writer.write(_frame(DATA, 0, stream, payload))
        await self._writer.drain()

    async def close(self) -> None:
        """Drop the connection."""
        self._reading.cancel()
        self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                size = int.from_bytes(head[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                self._take(kind, flags, stream, await self._reader.readexactly(size))
                self._changed.set()
        except (OSError, asyncio.IncompleteReadError):
            self.closed = True
            self._changed.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == 4:
                    self._windows = {id: left + value - self._initial for id, left in self._windows.items()}
                    self._initial = value
            self._writer.write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._writer.write(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = struct.unpack(">I", payload)[0]
            if stream:
                self._windows[stream] = self._windows.get(stream, 0) + more
            else:
                self._window += more
        elif kind == GOAWAY:
            self.closed = True
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)
