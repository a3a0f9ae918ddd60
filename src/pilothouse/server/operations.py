"""Health and metrics: what machines ask of the server."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.edge.openapi import example
from pilothouse.edge.web import json_response, public
from pilothouse.engine import store as engine_store
from pilothouse.fleet import store as fleet_store
from pilothouse.server.graph import Graph
from pilothouse.storage import StorageError

_ALIVE = example({"status": "ok", "version": __version__})
_READY = example({"status": "ready"}) | example(
    {"status": "unavailable", "reason": "the database does not answer"}, 503
)
_METRICS = example(
    "# HELP pilothouse_agents_connected Agents connected to this server\n"
    "# TYPE pilothouse_agents_connected gauge\n"
    "pilothouse_agents_connected 1.0\n",
    media="text/plain",
)


def operations_router(graph: Graph) -> APIRouter:
    """``/healthz``, ``/readyz``, ``/metrics``; open to everyone, and counted by nobody."""
    routes = APIRouter(tags=["operations"])
    meters = Meters(graph)

    @routes.head("/healthz", dependencies=[public()], include_in_schema=False)
    @routes.get("/healthz", dependencies=[public()], summary="Is the process alive", responses=_ALIVE)
    async def healthz() -> Response:
        """200 as long as the event loop turns."""
        return json_response({"status": "ok", "version": __version__})

    @routes.head("/readyz", dependencies=[public()], include_in_schema=False)
    @routes.get("/readyz", dependencies=[public()], summary="Can it serve", responses=_READY)
    async def readyz() -> Response:
        """200 when the database answers and takes what is written, else 503."""
        try:
            await graph.identity.storage.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one())
        except (SQLAlchemyError, StorageError):
            return json_response({"status": "unavailable", "reason": "the database does not answer"}, 503)
        if graph.writer.blocked:
            reason = "the database takes nothing: see storage.unavailable in the log (a full disk?)"
            return json_response({"status": "unavailable", "reason": reason}, 503)
        return json_response({"status": "ready"})

    @routes.get(
        "/metrics",
        dependencies=[public()],
        summary="Prometheus metrics",
        response_class=Response,
        responses=_METRICS,
    )
    async def metrics() -> Response:
        """Counts and depths, in Prometheus' text format."""
        await graph.identity.storage.read(meters.measure)
        return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class Meters:
    """What ``/metrics`` shows, measured when it is asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.registry = CollectorRegistry()
        self._head = self._gauge("journal_head_offset", "Offset the next journal entry will get")
        self._followers = self._gauge("stream_followers", "Open stream subscriptions")
        self._writes = self._gauge("storage_writes_queued", "Use cases waiting for the database writer")
        self._connected = self._gauge("agents_connected", "Agents connected to this server")
        self._agents = self._gauge("agents", "Registered agents by status", "status")
        self._attempts = self._gauge("step_attempts", "Step attempts by status", "status")

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"pilothouse_{name}", help, labels, registry=self.registry)

    def measure(self, conn: Connection) -> None:
        """Take all measures now."""
        self._head.set(self._graph.journal.feed.window.head)
        self._followers.set(self._graph.journal.feed.followers)
        self._writes.set(self._graph.writer.queued)
        self._connected.set(len(self._graph.fleet.hub))
        statuses = [agent.status.value for agent in fleet_store.all_agents(conn)]
        for status in ("online", "offline", "draining"):
            self._agents.labels(status).set(statuses.count(status))
        counts = engine_store.status_counts(conn)
        for status in ("queued", "running"):
            self._attempts.labels(status).set(counts.get(status, 0))
