"""The server's own part of the product: the journal's streams, health and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.edge.limits import RouteLimit
from pilothouse.edge.module import Core, Module, RpcService
from pilothouse.fleet.stream_channel import AgentChannels
from pilothouse.identity.service import Identity
from pilothouse.server import asyncapi, docs, operations, stream_docs
from pilothouse.server import events as journal_events
from pilothouse.server.asyncapi import AsyncApi
from pilothouse.server.events import CloudEvents, EventStreams
from pilothouse.server.memory import trimming
from pilothouse.server.operations import Measures, Operations
from pilothouse.server.stream_rpc import SERVICE, StreamService

SESSIONS = RouteLimit("POST", "/api/v1/sessions", "sessions")


def module(core: Core, others: Sequence[Module], keepalive: float) -> Module:
    """Serves the streams and metrics of all other modules; ``keepalive`` in seconds."""
    identity, feed = core.service(Identity), core.journal.feed
    kinds = {kind: code for other in others for kind, code in other.streams.items()}
    events = {type: event for other in others for type, event in other.events.items()}
    streams = StreamService(identity, feed, core.storage, events, core.service(AgentChannels))
    measures = tuple(other.metrics for other in others if other.metrics is not None)
    channels = (*journal_events.CHANNELS, *(channel for other in others for channel in other.channels))
    measured = Measures(core, measures)
    core.provide(
        AsyncApi(channels),
        EventStreams(keepalive, kinds, CloudEvents(feed.epoch)),
        measured,
        Operations(measured),
    )
    return Module(
        "server",
        channels=journal_events.CHANNELS,
        routers=(
            journal_events.routes(kinds),
            operations.router,
            asyncapi.router,
            docs.router,
            stream_docs.router,
        ),
        rpc=(RpcService(SERVICE, lambda server: server.add_generic_rpc_handlers((streams.handler(),))),),
        rate_limits=(SESSIONS,),
        background=trimming(),
    )
