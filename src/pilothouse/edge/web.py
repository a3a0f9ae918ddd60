"""The API of the edge for ``http.py`` and ``sockets.py``: callers, authorization, idempotency, envelopes.

Each route declares who may use it (a test checks all)::

    @router.post("/runs", dependencies=[allow("run.trigger")])
    async def start(idem: Idem, body: StartRun) -> Response:
        return await idem(
            lambda tx, by: runs.start(tx, by, body.pipeline), 202, permit=lambda _, by: require(by, "run.trigger")
        )

Other changes are made with ``change: Change``; use cases get the caller with the rights of that transaction.
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
from pilothouse.edge.headers import repeated
from pilothouse.edge.idempotency import Idem, Idempotent, enveloped
from pilothouse.edge.limits import RateLimits, RouteLimit
from pilothouse.edge.mutations import Change, Mutation
from pilothouse.edge.network import TrustedProxies, normal_origin
from pilothouse.edge.openapi import PUBLIC, describe, mark, required_action, required_actions
from pilothouse.edge.problems import install_handlers, json_response

__all__ = [
    "COOKIE",
    "PUBLIC",
    "Caller",
    "Change",
    "Exchange",
    "Idem",
    "Idempotent",
    "Mutation",
    "OptionalCaller",
    "allow",
    "envelope",
    "install",
    "json_response",
    "public",
    "required_action",
    "required_actions",
    "websocket_principal",
]

BODY_LIMIT = 256 << 10
"""Bytes; its most expensive JSON costs the event loop some 60 ms. Modules have other limits for their own paths."""

ProjectFrom = str | Callable[[Request], str | Awaitable[str | None] | None]
"""The source of a route's project: the name of a path parameter, or a function of the request."""


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
"""The caller of a public route: ``None`` without a token, 401 with an invalid one."""


def allow(action: str, *, project_from: ProjectFrom | None = None) -> params.Depends:
    """Require ``action`` for a route, in the project that ``project_from`` finds; otherwise 401 or 403.

    Also usable as a parameter: ``caller: Annotated[Principal, allow("run.read")]``.
    """
    if action not in ACTIONS and action not in AGENT_ACTIONS:
        raise KeyError(f"no such action: {action}")

    async def check(request: Request, caller: Caller) -> Principal:
        exchange = Exchange.of(request.scope)
        if check not in exchange.permitted:  # a request with a body was checked before the body was read
            require(caller, action, await _project(request, project_from))
            exchange.permitted += (check,)
        return caller

    mark(check, action)
    return params.Depends(check)


def public() -> params.Depends:
    """Declare a route as public: no token is required."""

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
    """A successful answer of the Arcentra families: ``{"code","msg","detail"?,"timestamp"}``."""
    return json_response(enveloped(detail, status), status)


async def websocket_principal(ws: WebSocket) -> Principal:
    """The caller who opens this socket: by header, ``?token=`` or cookie (only from our own origin).

    Opening it counts as one request of the token, or of the address without a token. Raises
    :class:`AuthError`, :class:`RateLimited`, or :class:`Refusal` ``ORIGIN_FORBIDDEN``. Before the accept
    these become the HTTP answer; an endpoint that must accept first catches them.
    """
    exchange = Exchange.of(ws.scope)
    try:
        in_url = ws.query_params.getlist("token")
        if len(in_url) > 1:
            raise repeated("token")
        caller = await exchange.principal(exchange.bearer() or (in_url[0] if in_url else None))
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
    """Install the edge in front of ``app``: request ids, error bodies, rate limits, body limits, origin checks.

    ``services``: the values of :func:`provided` parameters, by type. ``rate_limits``: routes with their own
    limits. ``body_limits``: bytes by path prefix; the longest matching prefix applies. ``uncounted``: path
    prefixes under ``/api/`` without rate limit (paths outside of ``/api/`` have none). Proxies are addresses
    or CIDR networks; uvicorn must run with ``proxy_headers=False``. Raises :class:`ValueError` for invalid
    settings.
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
