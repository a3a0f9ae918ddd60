"""The gRPC server: services, reflection and health."""

from __future__ import annotations

import os

import grpc
import grpc.aio
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pilothouse.server.graph import Graph
from pilothouse.server.refusals import Refusals

# Child processes are started by fork and exec at once; without this gRPC logs a warning for each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

MAX_MESSAGE = 16 << 20

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
]


async def start_rpc(graph: Graph) -> tuple[grpc.aio.Server, int]:
    """Start serving; returns the server and its port. Raises ``OSError`` if the port is in use."""
    settings = graph.settings
    server = grpc.aio.server(options=_OPTIONS, interceptors=[Refusals()])
    services = [service for module in graph.modules for service in module.rpc]
    for service in services:
        service.add(server)
    names = [service.name for service in services]
    checks = health_aio.HealthServicer()
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
