"""Health and metrics: what machines ask of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from fastapi import APIRouter
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.edge.module import Core, Gauge
from pilothouse.edge.openapi import example
from pilothouse.edge.web import json_response, public
from pilothouse.storage import StorageError

Metrics = Callable[[Connection], Iterable[Gauge]]

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


def operations_router(core: Core, measures: Sequence[Metrics]) -> APIRouter:
    """``/healthz``, ``/readyz``, ``/metrics``; open to everyone, and counted by nobody."""
    routes = APIRouter(tags=["operations"])

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
            await core.storage.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one())
        except (SQLAlchemyError, StorageError):
            return json_response({"status": "unavailable", "reason": "the database does not answer"}, 503)
        if core.storage.blocked:
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
        shown = await core.storage.read(lambda conn: exposition(core, measures, conn))
        return Response(shown, media_type=CONTENT_TYPE_LATEST)

    return routes


def _families(core: Core, metrics: Iterable[Metrics], conn: Connection) -> Iterator[GaugeMetricFamily]:
    feed = core.journal.feed
    own = [
        Gauge("journal_head_offset", "Offset the next journal entry will get", {"": feed.window.head}),
        Gauge("stream_followers", "Open stream subscriptions", {"": feed.followers}),
        Gauge(
            "storage_writes_queued", "Use cases waiting for the database writer", {"": core.storage.queued}
        ),
    ]
    for gauge in [*own, *(gauge for measure in metrics for gauge in measure(conn))]:
        family = GaugeMetricFamily(
            f"pilothouse_{gauge.name}", gauge.help, labels=[gauge.label] if gauge.label else []
        )
        for label, value in gauge.values.items():
            family.add_metric([label] if gauge.label else [], value)
        yield family


class _Collected:
    """A collector of figures that were read before."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        """Prometheus' client asks for them."""
        return self._families


def exposition(core: Core, metrics: Iterable[Metrics], conn: Connection) -> bytes:
    """All figures, in Prometheus' text format."""
    return generate_latest(_Collected(list(_families(core, metrics, conn))))
