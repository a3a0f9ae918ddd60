"""uvicorn as this server runs it: its own protocols, bounded connections, no signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from pilothouse.journal.turns import Turns
from pilothouse.server.connections import Connections
from pilothouse.server.listener import Listener
from pilothouse.server.protocols import HttpProtocol, WebSocketProtocol

DRAIN = 5.0
"""Seconds that open requests have to finish when the server stops."""


CAUSED_BY_CLIENTS = frozenset(
    {"Invalid HTTP request received.", "ASGI callable returned without completing handshake."}
)
"""Messages of uvicorn that any stranger can cause as often as they like; the answer says what is wrong."""


class HttpServer(uvicorn.Server):
    """Serves an ASGI application; the caller stops it, in its own order, by ``should_exit``."""

    def __init__(
        self, app: Any, connections: Connections, tls_cert: Path | None = None, tls_key: Path | None = None
    ) -> None:
        protocol: Any = partial(WebSocketProtocol, turns=Turns())
        config = uvicorn.Config(
            app,
            loop="none",
            http=HttpProtocol,
            ws=protocol,
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(DRAIN),
            ws_max_size=1 << 20,
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_ours)
        self.listening = asyncio.Event()
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with :class:`Listener` instead of the event loop's server, and set :attr:`listening`."""
        await self.lifespan.startup()
        self.servers: list[Any] = []
        for listening in sockets or ():
            listener = Listener(listening, self._protocol, self._connections, self.config.ssl)
            listener.start()
            self.servers.append(listener)
        self.started = True
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield

    def _protocol(self, abandoned: Callable[[], None]) -> HttpProtocol:
        protocol = HttpProtocol(self.config, self.server_state, self.lifespan.state)
        protocol.abandoned = abandoned
        return protocol


def _is_ours(record: logging.LogRecord) -> bool:
    return record.msg not in CAUSED_BY_CLIENTS
