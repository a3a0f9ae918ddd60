"""Running the server: start, report readiness, stop, each in a fixed order (decisions.md, "Running it")."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError

from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.server.app import build_app
from pilothouse.server.connections import Connections
from pilothouse.server.graph import Graph, build
from pilothouse.server.http_server import DRAIN, HttpServer
from pilothouse.server.lock import DataDirLocked, data_dir_lock
from pilothouse.server.logs import configure_logs
from pilothouse.server.memory import settle_allocator
from pilothouse.server.rpc import start_rpc
from pilothouse.server.settings import Settings, SettingsInvalid
from pilothouse.storage import StorageError, StorageUnavailable

log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class Ready:
    """A running server: its addresses, and tokens for the user and the agent on this machine."""

    http_url: str
    grpc_address: str
    _graph: Graph

    async def local_token(self) -> str:
        """An API token of ``admin`` for the user of this machine; replaces the previous one."""
        return await self._graph.service(Identity).issue_local_token()

    async def registration_token(self, agent: str) -> str:
        """A token with which this agent may register once, within ten minutes; replaces the previous one."""
        fleet = self._graph.service(Fleet)
        return await self._graph.storage.write(lambda tx: fleet.registry.local_token(tx, agent))


SWITCH_INTERVAL = 0.001
"""Seconds after which a thread that computes lets another one have the interpreter, if it waits for it.

The event loop waits for each thread that builds a large answer, and the writer after each commit; Python's 5 ms for
each of them would add up.
"""

OnReady = Callable[[Ready], Awaitable[None]]


async def serve(
    settings: Settings,
    *,
    on_ready: OnReady | None = None,
    stop: asyncio.Event | None = None,
    announce: bool = True,
) -> int:
    """Serve until SIGTERM, SIGINT or ``stop``; returns the exit code.

    ``announce``: print one line on stdout when ready: ``pilothouse ready http=… grpc=…``. What prevents the start (a
    port in use, another server on the data directory, an unusable or too new database) is printed in one line on
    stderr.
    """
    configure_logs(settings.log_format, settings.log_level)
    _allow_many_sockets()
    stop = stop or asyncio.Event()
    try:
        if (settings.tls_cert is None) != (settings.tls_key is None):
            raise OSError("tls_cert and tls_key must be given together")
        with (
            data_dir_lock(settings.data_dir),
            _listening(settings.host, settings.port) as http_socket,
            _signals(stop),
        ):
            await _with_graph(settings, http_socket, on_ready, stop, announce=announce)
    except StorageUnavailable as error:
        print(f"pilothouse cannot start: the database says: {error.reason}", file=sys.stderr, flush=True)
        return 1
    except (OSError, DataDirLocked, StorageError) as error:
        print(f"pilothouse cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    except SettingsInvalid as error:
        print(f"pilothouse cannot start: {error}", file=sys.stderr, flush=True)
        return 2
    except DBAPIError as error:
        print(f"pilothouse cannot start: the database says: {error.orig}", file=sys.stderr, flush=True)
        return 1
    return 0


async def _with_graph(
    settings: Settings,
    http_socket: socket.socket,
    on_ready: OnReady | None,
    stop: asyncio.Event,
    *,
    announce: bool,
) -> None:
    settle_allocator()
    graph = build(settings, alone=True)
    _configure_collector()
    sys.setswitchinterval(SWITCH_INTERVAL)
    graph.writer.start(graph.journal)
    try:
        await _announce_first_user(graph)
        for module in graph.modules:
            if module.started is not None:
                await module.started()
        graph.journal.feed.start()
        await _run(graph, http_socket, on_ready, stop, announce=announce)
    finally:
        await graph.writer.stop()
        _keep_head(graph)
        graph.journal.feed.close()
        _each(module.closed for module in graph.modules)
        graph.database.close()


async def _run(
    graph: Graph,
    http_socket: socket.socket,
    on_ready: OnReady | None,
    stop: asyncio.Event,
    *,
    announce: bool,
) -> None:
    http = HttpServer(
        build_app(graph), graph.service(Connections), graph.settings.tls_cert, graph.settings.tls_key
    )
    rpc, grpc_port = await start_rpc(graph)
    serving = asyncio.create_task(http.serve(sockets=[http_socket]))
    graph.background.start()
    try:
        listening = asyncio.create_task(http.listening.wait())
        await asyncio.wait({listening, serving}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if serving.done():
            raise OSError(f"the HTTP server did not start: {serving.exception() or 'see its log'}")
        ready = _ready(graph, http_socket.getsockname()[1], grpc_port)
        if on_ready is not None:
            await on_ready(ready)
        if announce:
            print(f"pilothouse ready http={ready.http_url} grpc={ready.grpc_address}", flush=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        log.info("server.stopping")
        await graph.background.stop()
        _each(module.stopping for module in graph.modules)
        graph.journal.feed.stop_all()
        http.should_exit = True
        stopped = asyncio.gather(rpc.stop(DRAIN / 2), serving, return_exceptions=True)
        await asyncio.wait({stopped}, timeout=DRAIN / 2)
        await graph.core.pool.close()  # jobs that still run are refused, while their requests can be answered
        await stopped


def _keep_head(graph: Graph) -> None:
    try:
        graph.head.keep_now()
    except (StorageError, DBAPIError) as error:  # the database is away; the file of the last second stays
        log.warning("journal.head_not_kept", error=str(error))


def _each(hooks: Iterable[Callable[[], object] | None]) -> None:
    for hook in hooks:
        if hook is not None:
            hook()


def _allow_many_sockets() -> None:
    # The soft limit is low for programs that use select(); a thousand streams would reach it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # the kernel may refuse an unlimited hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _configure_collector() -> None:
    # The feed's window holds many small objects that live for a while and form no cycles; with Python's default
    # thresholds the collector would traverse them often. Objects of the start live until the end.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def _ready(graph: Graph, port: int, grpc_port: int) -> Ready:
    settings = graph.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_cert else "http"
    return Ready(f"{scheme}://{host}:{port}", f"{host}:{grpc_port}", graph)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            message = f"cannot listen on {host}:{port}: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                message += " (choose others with --port and --grpc-port; 0: any free one)"
            raise OSError(message) from error
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _announce_first_user(graph: Graph) -> None:
    given = graph.settings.admin_password
    made = await graph.service(Identity).bootstrap(given.get_secret_value() if given else None)
    if made is None:
        return
    file = graph.settings.data_dir / "admin-password"
    _write_private(file, made + "\n")
    print(f"First user: admin, password {made} (kept in {file})", file=sys.stderr, flush=True)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
