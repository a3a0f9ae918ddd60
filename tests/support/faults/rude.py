"""Readers that behave badly for a while, and in the end want every line all the same; and some that only abuse."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from support.faults.readers import PING, Reader, masked, stalled, ws_request
from support.server import Server

SIP, PAUSE = 2048, 0.05
"""Bytes that a slow reader takes at once, and seconds between."""
ENDS = (b'"type":"run.completed"', b'"type":"workflow_completed"')


@dataclass
class Rude:
    """One reader with a small buffer, and what it has read so far. ``reads(seconds)``: whether it reads then."""

    reader: Reader
    reads: Callable[[float], bool] = lambda seconds: False
    slow: bool = True

    def __post_init__(self) -> None:
        self.sock = stalled(self.reader)
        self.sock.setblocking(False)
        self.held = bytearray()

    async def linger(self, seconds: float) -> None:
        """Behave so for so long."""
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            if self.reads(now):
                with contextlib.suppress(BlockingIOError):
                    self.held += self.sock.recv(SIP if self.slow else 1 << 20)
            await asyncio.sleep(PAUSE)

    async def catch_up(self) -> None:
        """Read on to the end as fast as it can; every line must come, once and in order."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.held += await asyncio.to_thread(rest, self.sock)
        await replay(self.reader, bytes(self.held))

    def close(self) -> None:
        """For teardown."""
        self.sock.close()


def rest(sock: socket.socket) -> bytes:
    """All that comes until the run is over, and its last message is whole."""
    found = bytearray()
    sock.settimeout(120)
    while data := sock.recv(1 << 20):
        found += data
        over = any(end in found[-3000:] for end in ENDS)
        if over and found.endswith(b"\n\n\r\n"):  # a WebSocket is closed by the server
            break
    sock.close()
    return bytes(found)


async def replay(one: Reader, received: bytes) -> None:
    """Let the reader take these bytes as if they came from a socket."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def send() -> None:
        with contextlib.suppress(OSError), ours:
            ours.sendall(received)

    sending = asyncio.create_task(asyncio.to_thread(send))
    await one.read(sock=theirs)
    await sending


@contextlib.contextmanager
def abuse(server: Server, path: str) -> Iterator[None]:
    """A client that floods a WebSocket with pings and reads nothing, and one that connects and disconnects."""
    over = threading.Event()
    threads = [threading.Thread(target=act, args=(server, path, over)) for act in (_flood, _come_and_go)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _connect(server: Server, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.settings["port"]), timeout=60)
    sock.sendall(ws_request(path, server.admin))
    return sock


def _flood(server: Server, path: str, over: threading.Event) -> None:
    pings = masked(PING, b"p" * 125) * 100
    while not over.is_set():
        with _connect(server, path) as sock, contextlib.suppress(OSError):  # it may be thrown out
            sock.settimeout(0.2)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    sock.send(pings)


def _come_and_go(server: Server, path: str, over: threading.Event) -> None:
    while not over.wait(0.02):
        with _connect(server, path) as sock:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # a reset, no close handshake
