"""Health checks and metrics."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter, FastAPI, Request
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.edge.module import Core, Gauge
from pilothouse.edge.openapi import answer, content
from pilothouse.edge.services import provided
from pilothouse.edge.shared import Shared
from pilothouse.edge.web import json_response, public
from pilothouse.server.connections import Connections
from pilothouse.storage import StorageError
from pilothouse.wire.rest.operations import Alive, Readiness

Metrics = Callable[[Connection], Iterable[Gauge]]

KEEP = 0.25
"""Seconds that an answer about the state of the server is used for further requests."""

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

    async def text(self) -> tuple[bytes, str]:
        """The same as :meth:`read`, with a connection of its own."""
        return await self.core.storage.read(self.read)

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
        accepted = self.core.storage.accepted
        yield Gauge("storage_writes", "Use cases given to the database writer", {"": accepted})
        yield Gauge("worker_processes", "Processes of the worker pool", {"": pool.workers})
        yield Gauge("worker_jobs_waiting", "Jobs waiting for a worker", {"": pool.waiting})
        yield Gauge("worker_jobs_ended", "Jobs of the worker pool by how they ended", ended, "outcome")


class Operations:
    """What these routes answer. No rate limit counts them: each answer is computed once for all who ask meanwhile."""

    def __init__(self, measures: Measures) -> None:
        self._storage = measures.core.storage
        self.metrics = Shared(measures.text, KEEP)
        self.readiness = Shared(self._ready, KEEP)
        self._document: Shared[bytes] | None = None

    async def document(self, app: FastAPI) -> bytes:
        """The OpenAPI document of the application, made once: it takes half a second."""

        def made() -> bytes:
            return orjson.dumps(app.openapi())

        if self._document is None:
            self._document = Shared(lambda: asyncio.to_thread(made), math.inf)
        return await self._document.get()

    async def _ready(self) -> dict[str, str]:
        """The body of the answer; with a reason, if the server is not ready."""
        try:
            await self._storage.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one())
        except (SQLAlchemyError, StorageError):
            return {"status": "unavailable", "reason": "the database does not answer"}
        if self._storage.blocked:
            reason = "the database accepts no writes: see storage.unavailable in the log (a full disk?)"
            return {"status": "unavailable", "reason": reason}
        return {"status": "ready"}


OperationsService = Annotated[Operations, provided(Operations)]


@router.head("/healthz", dependencies=[public()], include_in_schema=False)
@router.get("/healthz", dependencies=[public()], summary="Is the process alive", responses=answer(Alive))
async def get_health() -> Response:
    """200 while the event loop runs."""
    return json_response({"status": "ok", "version": __version__})


@router.head("/readyz", dependencies=[public()], include_in_schema=False)
@router.get("/readyz", dependencies=[public()], summary="Can it serve", responses=_READY)
async def get_readiness(operations: OperationsService) -> Response:
    """200 if the database answers and accepts writes, otherwise 503."""
    found = await operations.readiness.get()
    return json_response(found, 503 if "reason" in found else 200)


@router.get(
    "/metrics",
    dependencies=[public()],
    summary="Prometheus metrics",
    response_class=Response,
    responses=content(_METRICS, description="All metrics"),
)
async def get_metrics(operations: OperationsService) -> Response:
    """All metrics, in Prometheus' text format."""
    body, media_type = await operations.metrics.get()
    return Response(body, media_type=media_type)


@router.head("/openapi.json", dependencies=[public()], include_in_schema=False)
@router.get("/openapi.json", dependencies=[public()], include_in_schema=False)
async def get_document(request: Request, operations: OperationsService) -> Response:
    """This API."""
    return Response(await operations.document(request.app), media_type="application/json")
