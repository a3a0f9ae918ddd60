"""The fleet's part of the product: agents, their connections and leases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection

from pilothouse import __version__
from pilothouse.access.quotas import Quotas
from pilothouse.edge.module import Core, Gauge, Module, Periodic, PublicEvent, RpcService
from pilothouse.fleet import store
from pilothouse.fleet.arrivals import Arrivals
from pilothouse.fleet.grpc import AgentService
from pilothouse.fleet.http import router, tokens
from pilothouse.fleet.hub import LocalHub
from pilothouse.fleet.messages import MAX_REGISTRATION
from pilothouse.fleet.relay import Relay
from pilothouse.fleet.servers import Servers
from pilothouse.fleet.service import Fleet, FleetSettings
from pilothouse.fleet.silence import TICK, SilenceMonitor
from pilothouse.fleet.stream_channel import AgentChannels
from pilothouse.fleet.token_store import bound_to
from pilothouse.identity.service import Identity
from pilothouse.wire import entries
from pilothouse.wire.agent.v1 import agent_pb2, agent_pb2_grpc

EVENTS = {
    entries.AGENT_REGISTERED: PublicEvent("agent", "registered"),
    entries.AGENT_UNREGISTERED: PublicEvent("agent", "unregistered"),
    entries.AGENT_ONLINE: PublicEvent("agent", "online"),
    entries.AGENT_OFFLINE: PublicEvent("agent", "offline"),
    entries.AGENT_DRAINING: PublicEvent("agent", "draining"),
}


SHORT = ("Unregister", "FetchStepRun", "CancelStepRun", "CancelJobRun")
"""RPCs whose messages hold ids and a reason at most."""
MAX_SHORT = 64 << 10
"""Bytes of their messages."""


def module(core: Core, settings: FleetSettings, data_dir: Path) -> Module:
    """Provides :class:`Fleet`, :class:`Servers`, :class:`SilenceMonitor`, :class:`Relay`, :class:`Polling` and
    :class:`AgentChannels`.
    """
    storage, identity = core.storage, core.service(Identity)
    hub, arrivals = LocalHub(core.server_id), Arrivals(core.clock)
    fleet = Fleet(storage, core.journal, identity, settings, core.server_id, hub, arrivals)
    fleet.registry.quotas = core.service(Quotas)
    identity.projects.keep_while(lambda conn, project: bound_to(conn, project, core.clock()))
    servers = Servers(storage, fleet, __version__, data_dir / "server-id", time.monotonic)
    silence, relay = SilenceMonitor(storage, fleet, core.clock), Relay(storage, fleet)
    others_wrote = asyncio.Event()
    core.journal.feed.on_others(others_wrote.set)
    agents = AgentService(fleet, identity, storage, core.clock)
    channels = AgentChannels(fleet, identity, storage, agents.budgets)
    core.provide(fleet, servers, silence, relay, channels, agents.polling)

    def metrics(conn: Connection) -> Iterator[Gauge]:
        statuses = [agent.status.value for agent in store.all_agents(conn)]
        counts = {status: statuses.count(status) for status in ("online", "offline", "draining")}
        yield Gauge("agents", "Registered agents by status", counts, "status")
        connected = {channel.agent_id for channel in fleet.hub.channels()}
        yield Gauge("agents_connected", "Agents connected to this server", {"": len(connected)})

    return Module(
        "fleet",
        routers=(router, tokens),
        rpc=(
            RpcService(
                agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
                lambda server: agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, server),
                open=frozenset({"Register"}),
                max_message={"Register": MAX_REGISTRATION, **dict.fromkeys(SHORT, MAX_SHORT)},
            ),
        ),
        streams={"agent": "AGENT_NOT_FOUND"},
        events=EVENTS,
        background=(
            Periodic("fleet.silence", silence.check, every=TICK),
            Periodic("fleet.polling", agents.polling.expire, every=servers.every),
            Periodic("fleet.servers", servers.renew, every=servers.every),
            Periodic("fleet.relay", relay.catch_up, wake=others_wrote),
        ),
        metrics=metrics,
        started=servers.join,
        stopping=fleet.close,
    )
