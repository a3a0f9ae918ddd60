"""The HTTP application: every module's routes behind one edge."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.access.errors import Refusal
from pilothouse.edge.problems import respond
from pilothouse.edge.web import install
from pilothouse.identity.service import Identity
from pilothouse.pipelines.spec import SpecError
from pilothouse.server.graph import Graph
from pilothouse.server.settings import SettingsInvalid


def build_app(graph: Graph) -> FastAPI:
    """All routes of this server."""
    settings, modules = graph.settings, graph.modules
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
            graph.service(Identity),
            graph.answers,
            services=graph.core.services,
            rate_limits=[limit for module in modules for limit in module.rate_limits],
            envelope_prefixes=tuple(prefix for module in modules for prefix in module.envelope_prefixes),
            limits=graph.limits,
            allowed_origins=settings.allowed_origins,
            trusted_proxies=settings.trusted_proxies,
            body_limits={prefix: size for module in modules for prefix, size in module.body_limits.items()},
        )
    except ValueError as error:
        raise SettingsInvalid(str(error)) from error
    app.add_exception_handler(SpecError, _invalid_spec)
    for module in modules:
        for router in module.routers:
            app.include_router(router)
    return app


async def _invalid_spec(request: Request, error: Exception) -> Response:
    assert isinstance(error, SpecError)
    problems = [problem.as_json() for problem in error.problems]
    return respond(request.scope, Refusal.of("SPEC_INVALID", str(error), problems=problems))
