"""The fleet's part of the product: agents, their connections and leases."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from pilothouse.edge.module import Core, Gauge, Module, Periodic, PublicEvent, RpcService
from pilothouse.fleet import store
from pilothouse.fleet.grpc import AgentService
from pilothouse.fleet.http import router, tokens
from pilothouse.fleet.service import Fleet, FleetSettings
from pilothouse.fleet.silence import SilenceMonitor
from pilothouse.identity.service import Identity
from pilothouse.wire import entries
from pilothouse.wire.agent.v1 import agent_pb2, agent_pb2_grpc

TICK = 1.0

EVENTS = {
    entries.AGENT_REGISTERED: PublicEvent("agent", "registered"),
    entries.AGENT_UNREGISTERED: PublicEvent("agent", "unregistered"),
    entries.AGENT_ONLINE: PublicEvent("agent", "online"),
    entries.AGENT_OFFLINE: PublicEvent("agent", "offline"),
    entries.AGENT_DRAINING: PublicEvent("agent", "draining"),
}


def module(core: Core, settings: FleetSettings) -> Module:
    """Provides :class:`Fleet`."""
    storage, identity = core.storage, core.service(Identity)
    fleet = Fleet(storage, core.journal, identity, settings)
    core.provide(fleet)
    agents = AgentService(fleet, identity, storage)

    def metrics(conn: Connection) -> Iterator[Gauge]:
        statuses = [agent.status.value for agent in store.all_agents(conn)]
        counts = {status: statuses.count(status) for status in ("online", "offline", "draining")}
        yield Gauge("agents", "Registered agents by status", counts, "status")
        yield Gauge("agents_connected", "Agents connected to this server", {"": len(fleet.hub)})

    return Module(
        "fleet",
        routers=(router, tokens),
        rpc=(
            RpcService(
                agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
                lambda server: agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, server),
            ),
        ),
        streams={"agent": "AGENT_NOT_FOUND"},
        events=EVENTS,
        background=(Periodic("fleet.silence", SilenceMonitor(storage, fleet).check, every=TICK),),
        metrics=metrics,
        started=lambda: storage.write(fleet.restarted),
        stopping=fleet.close,
    )
