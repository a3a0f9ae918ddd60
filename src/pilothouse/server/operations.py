"""Health checks and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.edge.module import Core, Gauge
from pilothouse.edge.openapi import answer, content
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import json_response, public
from pilothouse.server.connections import Connections
from pilothouse.storage import StorageError
from pilothouse.wire.rest.operations import Alive, Readiness

Metrics = Callable[[Connection], Iterable[Gauge]]


router = APIRouter(tags=["operations"])

_READY = answer(Readiness) | answer(
    Readiness, 503, example={"status": "unavailable", "reason": "the database does not answer"}
)
_METRICS = (
    "# HELP pilothouse_agents_connected Agents connected to this server\n"
    "# TYPE pilothouse_agents_connected gauge\n"
    "pilothouse_agents_connected 1.0\n"
)


@dataclass(frozen=True, slots=True)
class Measures:
    """The metrics of the journal, the database, the worker pool and all modules."""

    core: Core
    modules: tuple[Metrics, ...]

    def read(self, conn: Connection) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its media type."""
        from pilothouse.server.exposition import CONTENT_TYPE_LATEST, exposition

        gauges = [*self._own(), *(gauge for measure in self.modules for gauge in measure(conn))]
        return exposition(gauges), CONTENT_TYPE_LATEST

    def _own(self) -> Iterator[Gauge]:
        feed, queued = self.core.journal.feed, self.core.storage.queued
        pool = self.core.pool.state()
        ended = {"done": 0, **pool.ended}
        yield Gauge("journal_head_offset", "Offset the next journal entry will get", {"": feed.window.head})
        yield Gauge("stream_followers", "Open stream subscriptions", {"": feed.followers})
        connections = len(self.core.service(Connections))
        yield Gauge("http_connections", "Open HTTP connections, streams included", {"": connections})
        yield Gauge("storage_writes_queued", "Use cases waiting for the database writer", {"": queued})
        yield Gauge("worker_processes", "Processes of the worker pool", {"": pool.workers})
        yield Gauge("worker_jobs_waiting", "Jobs waiting for a worker", {"": pool.waiting})
        yield Gauge("worker_jobs_ended", "Jobs of the worker pool by how they ended", ended, "outcome")


MeasuresService = Annotated[Measures, provided(Measures)]


@router.head("/healthz", dependencies=[public()], include_in_schema=False)
@router.get("/healthz", dependencies=[public()], summary="Is the process alive", responses=answer(Alive))
async def get_health() -> Response:
    """200 while the event loop runs."""
    return json_response({"status": "ok", "version": __version__})


@router.head("/readyz", dependencies=[public()], include_in_schema=False)
@router.get("/readyz", dependencies=[public()], summary="Can it serve", responses=_READY)
async def get_readiness(database: Database) -> Response:
    """200 if the database answers and accepts writes, otherwise 503."""
    try:
        await database.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one())
    except (SQLAlchemyError, StorageError):
        return json_response({"status": "unavailable", "reason": "the database does not answer"}, 503)
    if database.blocked:
        reason = "the database accepts no writes: see storage.unavailable in the log (a full disk?)"
        return json_response({"status": "unavailable", "reason": reason}, 503)
    return json_response({"status": "ready"})


@router.get(
    "/metrics",
    dependencies=[public()],
    summary="Prometheus metrics",
    response_class=Response,
    responses=content(_METRICS, description="All metrics"),
)
async def get_metrics(database: Database, measures: MeasuresService) -> Response:
    """All metrics, in Prometheus' text format."""
    body, media_type = await database.read(measures.read)
    return Response(body, media_type=media_type)
