"""Accepting HTTP connections: bounded before anything is read, also before the handshake of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import partial

import structlog

from pilothouse.access.errors import Refusal
from pilothouse.server.connections import Connections
from pilothouse.server.early import early_answer

log = structlog.get_logger("http")

BACKLOG = 4096
AT_ONCE = 64
"""Connections accepted in one iteration of the event loop."""

HANDSHAKE_WAIT = 10.0
"""Seconds that a client has for the handshake of TLS."""

GOODBYE_WAIT = 5.0
"""Seconds that a client has to confirm the end of TLS."""

LINGER, LINGERING = 1.0, 128
"""Seconds that a refused client has to read why, and how many of them at a time."""

PAUSE = 1.0
"""Seconds without accepting after the system had no file for a connection."""


class Accepted(socket.socket):
    """A connection that says when it is closed; its transport detaches or closes it."""

    __slots__ = ("_on_end",)

    def __init__(self, connection: socket.socket, on_end: Callable[[], None]) -> None:
        family, kind, proto = connection.family, connection.type, connection.proto
        self._on_end: Callable[[], None] | None = on_end
        super().__init__(family, kind, proto, fileno=connection.detach())

    def detach(self) -> int:
        """Called by uvloop, which closes the file itself."""
        self._end()
        return super().detach()

    def close(self) -> None:
        """Called by asyncio."""
        self._end()
        super().close()

    def _end(self) -> None:
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()


class Listener:
    """Serves connections of ``listening`` with protocols of ``factory``; what uvicorn needs of a server.

    ``factory`` is given what its protocol calls when the client has gone before it had its answer.
    """

    def __init__(
        self,
        listening: socket.socket,
        factory: Callable[[Callable[[], None]], asyncio.Protocol],
        connections: Connections,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._socket = listening
        self._factory = factory
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._leaving: set[socket.socket] = set()
        self._complained = float("-inf")
        self._closed = False

    def start(self) -> None:
        """Listen and accept."""
        self._socket.listen(BACKLOG)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept nothing more; open connections stay."""
        self._closed = True
        self._loop.remove_reader(self._socket)
        for task in self._opening:
            task.cancel()
        for refused in list(self._leaving):
            self._leave(refused)

    async def wait_closed(self) -> None:
        """Wait until the last handshakes have ended."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no files or memory left: the connection waits in the backlog
                if self._worth_a_line():
                    log.warning("http.accept_failed", error=str(error))
                self._loop.remove_reader(self._socket)
                self._loop.call_later(PAUSE, self._resume)
                return
            connection.setblocking(False)
            on_end = self._connections.enter(peer[0])
            if isinstance(on_end, Refusal):
                if self._worth_a_line():
                    log.warning("http.connection_refused", code=on_end.code, address=peer[0])
                self._refuse(connection, on_end)
                continue
            task = self._loop.create_task(self._open(Accepted(connection, on_end), peer[0]))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._accept)

    async def _open(self, connection: Accepted, address: str) -> None:
        def factory() -> asyncio.Protocol:
            return self._factory(partial(self._connections.abandoned, address))

        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(factory, connection)
            else:
                await self._loop.connect_accepted_socket(
                    factory,
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=HANDSHAKE_WAIT,
                    ssl_shutdown_timeout=GOODBYE_WAIT,
                )
        except OSError as error:  # of TLS, too
            log.debug("http.handshake_failed", error=str(error))
            connection.close()
        except BaseException:
            connection.close()
            raise

    def _refuse(self, connection: socket.socket, refusal: Refusal) -> None:
        if self._tls is not None or len(self._leaving) >= LINGERING:
            connection.close()
            return
        # The request is usually still on its way: a connection that is closed before would be reset by it.
        with contextlib.suppress(OSError):
            connection.send(early_answer(refusal))
            connection.shutdown(socket.SHUT_WR)
        self._leaving.add(connection)
        self._loop.call_later(LINGER, self._leave, connection)

    def _leave(self, connection: socket.socket) -> None:
        self._leaving.discard(connection)
        connection.close()

    def _worth_a_line(self) -> bool:
        # A flood must not fill the log.
        now = self._loop.time()
        if now - self._complained < 10:
            return False
        self._complained = now
        return True
