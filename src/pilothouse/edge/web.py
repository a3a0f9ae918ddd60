"""What every package's ``http.py`` and ``sockets.py`` use: callers, rights, idempotency, envelopes, the edge.

A route says who may use it (a test walks them all)::

    @router.post("/runs", dependencies=[allow("run.trigger")])
    async def start(caller: Caller, idem: Idem, body: StartRun) -> Response:
        return await idem(lambda tx: runs.start(tx, caller, body.pipeline), 202)
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, params
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from pilothouse.access.errors import AuthError, Refusal, require
from pilothouse.access.model import ACTIONS, AGENT_ACTIONS, Principal
from pilothouse.edge.answers import Answers
from pilothouse.edge.authentication import Authentication
from pilothouse.edge.exchange import COOKIE, Edge, Exchange
from pilothouse.edge.gate import Gate
from pilothouse.edge.idempotency import Idem, Idempotent, enveloped
from pilothouse.edge.limits import RateLimits, RouteLimit
from pilothouse.edge.network import TrustedProxies, normal_origin
from pilothouse.edge.openapi import PUBLIC, describe, mark, required_action, required_actions
from pilothouse.edge.problems import install_handlers, json_response, rfc3339

__all__ = [
    "COOKIE",
    "PUBLIC",
    "Caller",
    "Exchange",
    "Idem",
    "Idempotent",
    "OptionalCaller",
    "allow",
    "envelope",
    "install",
    "json_response",
    "public",
    "required_action",
    "required_actions",
    "rfc3339",
    "websocket_principal",
]

BODY_LIMIT = 2 << 20

ProjectFrom = str | Callable[[Request], str | Awaitable[str | None] | None]
"""Where a route's project is: the name of a path parameter, or a function of the request."""


async def _caller(connection: HTTPConnection) -> Principal:
    return await Exchange.of(connection.scope).caller()


async def _optional_caller(connection: HTTPConnection) -> Principal | None:
    try:
        return await Exchange.of(connection.scope).caller()
    except AuthError as error:
        if error.code == "AUTH_TOKEN_MISSING":
            return None
        raise


Caller = Annotated[Principal, Depends(_caller)]
"""The authenticated user or agent; 401 without one."""

OptionalCaller = Annotated[Principal | None, Depends(_optional_caller)]
"""The same for routes open to everyone: ``None`` without a token, 401 with a bad one."""


def allow(action: str, *, project_from: ProjectFrom | None = None) -> params.Depends:
    """A route for those who may do ``action``, in the project that ``project_from`` finds; else 401 or 403.

    Also usable as a parameter: ``caller: Annotated[Principal, allow("run.read")]``.
    """
    if action not in ACTIONS and action not in AGENT_ACTIONS:
        raise KeyError(f"no such action: {action}")

    async def check(request: Request, caller: Caller) -> Principal:
        require(caller, action, await _project(request, project_from))
        return caller

    mark(check, action)
    return params.Depends(check)


def public() -> params.Depends:
    """A route that everyone may use, token or not."""

    async def everyone() -> None:
        return None

    mark(everyone, PUBLIC)
    return params.Depends(everyone)


async def _project(request: Request, source: ProjectFrom | None) -> str | None:
    if source is None:
        return None
    if isinstance(source, str):
        return str(request.path_params[source])
    found = source(request)
    return await found if inspect.isawaitable(found) else found


def envelope(detail: Any = None, status: int = 200) -> Response:
    """A success of the Arcentra families: ``{"code","msg","detail"?,"timestamp"}``."""
    return json_response(enveloped(detail, status), status)


async def websocket_principal(ws: WebSocket) -> Principal:
    """Who opens this socket: by header, ``?token=`` or cookie (then only from our own origin).

    Opening it counts as one request: of the token, else of the address. Raises :class:`AuthError`,
    :class:`RateLimited`, or :class:`Refusal` ``ORIGIN_FORBIDDEN``. Raised on before the accept, it becomes the
    HTTP answer; an endpoint that must accept first catches it.
    """
    exchange = Exchange.of(ws.scope)
    try:
        caller = await exchange.principal(exchange.bearer() or ws.query_params.get("token"))
    except Refusal:
        exchange.count(None)
        raise
    exchange.count(caller)
    return caller


def install(
    app: FastAPI,
    authentication: Authentication,
    answers: Answers,
    *,
    services: Mapping[type, object] | None = None,
    rate_limits: Iterable[RouteLimit] = (),
    envelope_prefixes: tuple[str, ...] = (),
    limits: RateLimits | None = None,
    allowed_origins: Iterable[str] = (),
    trusted_proxies: Iterable[str] = (),
    body_limit: int = BODY_LIMIT,
    body_limits: Mapping[str, int] | None = None,
    uncounted: tuple[str, ...] = (),
) -> None:
    """Put the edge in front of ``app``: request ids, error bodies, rate limits, body limits, browser safety.

    ``services``: what :func:`provided` parameters of routes receive, by type.
    ``rate_limits``: routes with limits of their own.
    ``body_limits``: bytes by path prefix, the longest fitting one counts. ``uncounted``: path prefixes under
    ``/api/`` without rate limit (what is outside ``/api/`` has none). Proxies are addresses or CIDR networks;
    uvicorn itself must run with ``proxy_headers=False``. Raises :class:`ValueError` for bad settings.
    """
    origins = {origin: normal_origin(origin) for origin in allowed_origins}
    bad = [origin for origin, normal in origins.items() if normal is None]
    if bad:
        raise ValueError(f"not an origin (scheme://host[:port]): {bad[0]}")
    edge = Edge(
        authentication=authentication,
        answers=answers,
        services=services or {},
        rate_limits={(limit.method, limit.path): limit for limit in rate_limits},
        limits=limits or RateLimits(),
        envelope_prefixes=envelope_prefixes,
        allowed_origins=frozenset(normal for normal in origins.values() if normal is not None),
        proxies=TrustedProxies(trusted_proxies),
        body_limit=body_limit,
        body_limits=dict(body_limits or {}),
        uncounted=uncounted,
    )
    app.add_middleware(Gate, edge=edge)
    install_handlers(app)
    describe(app, edge.envelope)
