"""The HTTP application: every module's routes behind one edge."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from pilothouse import __version__
from pilothouse.edge.openapi import operation_id
from pilothouse.edge.web import install
from pilothouse.identity.service import Identity
from pilothouse.server.graph import Graph
from pilothouse.server.settings import SettingsInvalid


def build_app(graph: Graph) -> FastAPI:
    """All routes of this server."""
    settings, modules = graph.settings, graph.modules
    app = FastAPI(
        title="Pilothouse",
        version=__version__,
        summary="Clusters, pipelines, releases and desktops on one replayable journal.",
        openapi_url=None,  # the route of operations.py keeps the text
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The routes themselves: FastAPI would analyse those of an included router again, at the first request.
        routes=[_named(route) for module in modules for router in module.routers for route in router.routes],
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
    return app


def _named(route: BaseRoute) -> BaseRoute:
    """The route with its name in the document, which FastAPI gives to routes of included routers only."""
    if isinstance(route, APIRoute) and route.operation_id is None:
        route.unique_id = operation_id(route)
    return route
