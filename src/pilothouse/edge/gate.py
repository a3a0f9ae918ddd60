"""The ASGI middleware in front of all routes. WebSockets pass unchanged."""

from __future__ import annotations

import traceback

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse import __version__
from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.access.versions import check_client
from pilothouse.edge.exchange import Edge, Exchange
from pilothouse.edge.limits import Count
from pilothouse.edge.parameters import check_parameters
from pilothouse.edge.problems import respond, translate
from pilothouse.storage import StorageError

log = structlog.get_logger("http")

API = "/api/"


class Gate:
    """Creates the :class:`Exchange` of each request, refuses clients of ours that are too old, applies rate and body
    limits, answers unexpected errors."""

    def __init__(self, app: ASGIApp, edge: Edge) -> None:
        self._app = app
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._edge, scope)
        if scope["type"] == "websocket":
            try:
                check_parameters(scope)
            except Refusal as error:
                await respond(scope, error)(scope, receive, send)
                return
            await self._app(scope, receive, send)
        else:
            await self._http(exchange, receive, send)

    async def _http(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        scope, started = exchange.scope, False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in exchange.response_headers().items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            check_parameters(scope)
            if scope["path"].startswith(API):
                check_client(exchange.headers.get("user-agent", ""), __version__)
            await self._count(exchange)
            await self._app(scope, self._bounded(exchange, receive), answer)
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, Refusal | HTTPException | StorageError):
                # As plain text: a renderer with local variables would show tokens and passwords.
                trace = "".join(traceback.format_exception(error))
                log.error("http.failed", request_id=exchange.request_id, path=scope["path"], traceback=trace)
            if started:
                raise  # too late to answer; the server aborts the connection
            await respond(scope, translate(error))(scope, receive, answer)

    async def _count(self, exchange: Exchange) -> None:
        scope, edge = exchange.scope, self._edge
        path = scope["path"]
        if not path.startswith(API) or path.startswith(edge.uncounted):
            return
        caller: Principal | None
        try:
            caller = await exchange.caller()
        except Refusal:  # the route refuses, if it requires a caller
            caller = None
        if caller is not None and caller.kind != "user":
            return
        count = self._counted(scope["method"], path.rstrip("/"), caller, exchange.address)
        if count is not None:
            exchange.rate = count.headers()
            count.check()

    def _counted(self, method: str, path: str, caller: Principal | None, address: str) -> Count | None:
        limits = self._edge.limits
        own = self._edge.rate_limits.get((method, path))
        if own is None:
            return limits.request(caller, address)
        return limits.request(caller, address, own.limit, by_address=own.by_address)

    def _bounded(self, exchange: Exchange, receive: Receive) -> Receive:
        headers = exchange.headers
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return receive
        limit = self._limit(exchange.scope["path"])
        if length is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        return _Bounded(receive, limit)

    def _limit(self, path: str) -> int:
        fitting = [prefix for prefix in self._edge.body_limits if path.startswith(prefix)]
        return self._edge.body_limits[max(fitting, key=len)] if fitting else self._edge.body_limit


class _Bounded:
    """Receives a body up to a limit; the length of a chunked body is not known in advance."""

    __slots__ = ("_left", "_limit", "_receive")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _too_large(self._limit)
        return message


def _too_large(limit: int) -> HTTPException:
    # FastAPI only passes an HTTPException on while it reads a body. The rest of the body is not read.
    return HTTPException(413, f"The body is larger than {limit} bytes", headers={"Connection": "close"})
