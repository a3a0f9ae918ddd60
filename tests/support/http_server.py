"""The server's HTTP protocols around a small application, in a thread of the test: deadlines can be made short."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from pilothouse.edge.network import TrustedProxies
from pilothouse.server.connections import Connections
from pilothouse.server.http_server import HttpServer
from support.waiting import PATIENCE


@dataclass
class Small:
    """A running server; ``seen``: what its application got to see."""

    port: int
    connections: Connections
    loop: asyncio.AbstractEventLoop
    seen: list[str] = field(default_factory=list)

    def connect(
        self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, source: str = ""
    ) -> socket.socket:
        """A connection, from an address of choice, on which every wait has an end."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family)
        sock.settimeout(PATIENCE)
        if source:
            sock.bind((source, 0))
        sock.connect((host, self.port))
        return sock if tls is None else tls.wrap_socket(sock)

    def inside(self, call: Callable[[], Any]) -> Any:
        """The result of a call on the server's event loop."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)


@contextlib.contextmanager
def serving(
    app: Callable[[Small], Any], connections: Connections | None = None, host: str = "127.0.0.1", **tls: Path
) -> Iterator[Small]:
    """Serve ``app(small)``, which is told what it serves."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as listening:
        listening.setblocking(False)
        made: list[Any] = []
        ready = threading.Event()

        async def run() -> None:
            bounds = Connections(1000, 1000, TrustedProxies()) if connections is None else connections
            small = Small(listening.getsockname()[1], bounds, asyncio.get_running_loop())
            server = HttpServer(app(small), bounds, **tls)
            made.extend((small, server))
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            await server.listening.wait()
            ready.set()
            await serving

        thread = threading.Thread(target=uvloop.run, args=(run(),))
        thread.start()
        assert ready.wait(PATIENCE)
        try:
            yield made[0]
        finally:
            made[1].should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def everything(sock: socket.socket) -> bytes:
    """All that comes until the server closes the connection; a reset is an end, too."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            found += data
    return found


def until(sock: socket.socket, end: bytes) -> bytes:
    """All that comes until it ends so."""
    found = b""
    while not found.endswith(end):
        data = sock.recv(1 << 16)
        assert data, f"the connection ended after {found!r}"
        found += data
    return found


def error(answer: bytes) -> tuple[int, str]:
    """Status and code of an error body that was read to its end."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]
