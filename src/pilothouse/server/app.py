"""The HTTP application: every package's routes behind one edge."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.access.errors import Refusal
from pilothouse.blobs.http import router as blobs_router
from pilothouse.blobs.service import Blobs
from pilothouse.edge.problems import respond
from pilothouse.edge.web import install
from pilothouse.engine.http import runs_router
from pilothouse.engine.http_checkouts import checkouts_router
from pilothouse.engine.sockets import StreamSettings
from pilothouse.engine.sockets import router as sockets_router
from pilothouse.engine.spec import SpecError
from pilothouse.fleet.http import agents_router, registration_tokens_router
from pilothouse.identity.http import router as identity_router
from pilothouse.identity.service import Identity
from pilothouse.pipelines.http import pipelines_router
from pilothouse.secrets.http import router as secrets_router
from pilothouse.secrets.service import Secrets
from pilothouse.server.events import events_router
from pilothouse.server.graph import Graph
from pilothouse.server.operations import operations_router
from pilothouse.server.settings import SettingsInvalid
from pilothouse.storage import Storage

ENVELOPE_FAMILIES = tuple(
    f"/api/v1/{family}"
    for family in ("pipelines", "projects", "uploads", "roles", "tenants", "settings", "secrets", "identity")
)


def build_app(graph: Graph) -> FastAPI:
    """All routes of this server."""
    settings = graph.settings
    app = FastAPI(
        title="Pilothouse",
        version=__version__,
        summary="Clusters, pipelines, releases and desktops on one replayable journal.",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    try:
        install(
            app,
            graph.identity,
            graph.answers,
            services={
                Identity: graph.identity,
                Storage: graph.storage,
                Blobs: graph.blobs,
                Secrets: graph.secrets,
            },
            envelope_prefixes=ENVELOPE_FAMILIES,
            limits=graph.limits,
            allowed_origins=settings.allowed_origins,
            trusted_proxies=settings.trusted_proxies,
            body_limits={"/api/v1/blobs": settings.max_blob + 1},
        )
    except ValueError as error:
        raise SettingsInvalid(str(error)) from error
    app.add_exception_handler(SpecError, _invalid_spec)
    identity, feed = graph.identity, graph.journal.feed
    streams = StreamSettings(settings.sse_keepalive, settings.ws_heartbeat, settings.ws_pong_wait)
    app.include_router(identity_router)
    app.include_router(agents_router(identity, graph.fleet))
    app.include_router(registration_tokens_router(identity, graph.fleet))
    app.include_router(pipelines_router(identity, graph.pipelines, graph.engine))
    app.include_router(sockets_router(identity, feed, streams))
    app.include_router(runs_router(identity, graph.engine))
    app.include_router(blobs_router)
    app.include_router(checkouts_router(identity))
    app.include_router(secrets_router)
    app.include_router(events_router(identity, feed, settings.sse_keepalive))
    app.include_router(operations_router(graph))
    return app


async def _invalid_spec(request: Request, error: Exception) -> Response:
    assert isinstance(error, SpecError)
    problems = [problem.as_json() for problem in error.problems]
    return respond(request.scope, Refusal.of("SPEC_INVALID", str(error), problems=problems))
