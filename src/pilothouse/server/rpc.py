"""The gRPC server: services, reflection and health."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

import grpc
import grpc.aio
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pilothouse.access.errors import Refusal
from pilothouse.edge.module import RpcService
from pilothouse.edge.strangers import Strangers
from pilothouse.identity.service import Identity
from pilothouse.server.graph import Graph
from pilothouse.server.rpc_gate import MAX_MESSAGE as USUAL
from pilothouse.server.rpc_gate import RpcGate, Rule

# Child processes are started by fork and exec at once; without this gRPC logs a warning for each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

MAX_MESSAGE = 16 << 20
"""Bytes that gRPC receives as one message; most methods take less (:class:`RpcGate`)."""
MAX_OPEN_MESSAGE = 64 << 10
MAX_CONNECTIONS = 10_000
"""The bound is never higher, however many files the process may open."""
MAX_STREAMS = 1_000
"""Calls at once on one connection; a client library lets further ones wait."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the default of 60 s would detect a dead connection late
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.settings_timeout", 10_000),
    ("grpc.http2.bdp_probe", 0),  # otherwise every unread stream may hold as much as the fastest one needs
    ("grpc.max_connection_idle_ms", 300_000),  # a client connects again with its next call
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
]


async def start_rpc(graph: Graph) -> tuple[grpc.aio.Server, int]:
    """Start serving; returns the server and its port. Raises ``OSError`` if the port is in use."""
    settings = graph.settings
    services = [service for module in graph.modules for service in module.rpc]
    gate = RpcGate(graph.service(Identity), graph.limits, Strangers(graph.limits), _rules(services))
    bound = ("grpc.max_allowed_incoming_connections", _connections())
    server = grpc.aio.server(options=[*_OPTIONS, bound], interceptors=[gate])
    for service in services:
        service.add(server)
    names = [service.name for service in services]
    checks = _Health()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ["", *names]:
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_cert and settings.tls_key:
            pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen for gRPC on {address}: {error}") from error
    await server.start()
    return server, port


def _connections() -> int:
    """A sixth of the files that this process may open: HTTP takes up to three quarters."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(64, min(MAX_CONNECTIONS, files // 6))


def _rules(services: Iterable[RpcService]) -> dict[str, Rule]:
    rules = {
        f"/{service.name}/{method}": Rule(
            open=method in service.open, max_message=service.max_message.get(method, USUAL)
        )
        for service in services
        for method in service.open | service.max_message.keys()
    }
    known = Rule(open=True, free=True, max_message=MAX_OPEN_MESSAGE)
    rules |= {f"/{health.SERVICE_NAME}/{method}": known for method in ("Check", "List", "Watch")}
    listed = Rule(open=True, counted=True, max_message=MAX_OPEN_MESSAGE)
    return rules | {f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": listed}


class _Health(health_aio.HealthServicer):  # type: ignore[misc]
    """Refuses with a code, like every service."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: object
    ) -> health_pb2.HealthCheckResponse:
        """The status of a service, or NOT_FOUND."""
        status = self._server_status.get(request.service)
        if status is None:
            raise Refusal.of("NOT_FOUND", "There is no such service")
        return health_pb2.HealthCheckResponse(status=status)
