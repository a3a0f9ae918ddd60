"""No place where the server takes input is without an attack on it (tests/faults/neighbours)."""

from __future__ import annotations

from pathlib import Path

import grpc
from fastapi.routing import APIWebSocketRoute
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from faults.neighbours.abuses import ABUSES, SURFACES, WITHOUT
from faults.neighbours.table import CALLERS
from pilothouse.agent.commands import _KEYWORDS
from pilothouse.engine.sockets import arcentra
from pilothouse.server.graph import build
from pilothouse.server.settings import Settings
from support.server import Server
from support.world import routes_of

KNOWN = SURFACES.keys() | WITHOUT.keys()
IN_GENERAL = {
    "HTTP head",
    "HTTP body",
    "HTTP Idempotency-Key",
    "HTTP/2 connection",
    "STEP stdout",
    "STEP PILOT_ENV",
}
"""What no list of the product has."""


def routes(server: Server) -> set[str]:
    return {f"{method} {path}" for method, path, _ in routes_of(server)}


def rpcs(server: Server) -> set[str]:
    """Every method that reflection knows, and every kind of message of those that take a stream."""
    found = set()
    with grpc.insecure_channel(server.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        for name in database.get_services():
            for method in pool.FindServiceByName(name).methods:
                found.add(f"{name}/{method.name}")
                kinds = method.input_type.oneofs_by_name.get("payload") if method.client_streaming else None
                found |= {f"{name}/{method.name} {field.name}" for field in (kinds.fields if kinds else ())}
    return found


def sockets(directory: Path) -> set[str]:
    """Every WebSocket, and the channels of the one that has some."""
    graph = build(Settings(data_dir=directory))
    routers = [router for module in graph.modules for router in module.routers]
    found = {f"WS {r.path}" for router in routers for r in router.routes if isinstance(r, APIWebSocketRoute)}
    return found | {f"WS /api/v1/ws {channel}" for channel in (arcentra.LOG, arcentra.STATUS)}


async def test_every_place_that_takes_input_has_an_attack_or_a_reason(
    shared_server: Server, tmp_path: Path
) -> None:
    commands = {f"STEP {keyword}" for keyword in _KEYWORDS}
    found = routes(shared_server) | rpcs(shared_server) | sockets(tmp_path) | commands | IN_GENERAL
    assert not sorted(found - KNOWN), "no attack on these (tests/faults/neighbours/abuses.py)"
    assert not sorted(KNOWN - found), "these are no more"
    assert len(found) > 100


def test_every_attack_is_of_some_place() -> None:
    used = {name for rows in SURFACES.values() for name in rows}
    assert used == ABUSES.keys()
    assert not SURFACES.keys() & WITHOUT.keys()
    assert all(SURFACES.values())
    assert {abuse.caller for abuse in ABUSES.values()} == set(CALLERS)
