"""The ASGI middleware in front of all routes and sockets."""

from __future__ import annotations

import traceback

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse import __version__
from pilothouse.access.errors import RateLimited, Refusal
from pilothouse.access.model import Principal
from pilothouse.access.versions import check_client
from pilothouse.edge.exchange import Edge, Exchange
from pilothouse.edge.headers import check_single, completed
from pilothouse.edge.intake import Intake, too_large, unread
from pilothouse.edge.limits import FAILURES, Count
from pilothouse.edge.parameters import check_parameters
from pilothouse.edge.problems import respond, translate
from pilothouse.storage import StorageError

log = structlog.get_logger("http")

API = "/api/"
INVALID = 1008

_STARTS = ("http.response.start", "websocket.http.response.start")


class Gate:
    """Creates the :class:`Exchange` of each request and socket, refuses repeated headers and clients of ours that are
    too old, applies rate and body limits, answers unexpected errors, adds the headers of every answer."""

    def __init__(self, app: ASGIApp, edge: Edge) -> None:
        self._app = app
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._edge, scope)
        answer = _Answer(exchange, receive, send)
        if scope["type"] == "websocket":
            await self._socket(exchange, receive, answer)
        else:
            await self._http(exchange, receive, answer)

    async def _socket(self, exchange: Exchange, receive: Receive, answer: _Answer) -> None:
        try:
            check_single(exchange.scope["headers"])
        except Refusal as refusal:
            await respond(exchange.scope, refusal)(exchange.scope, receive, answer)
            return
        await self._app(exchange.scope, receive, answer)

    async def _http(self, exchange: Exchange, receive: Receive, answer: _Answer) -> None:
        scope = exchange.scope
        try:
            check_single(scope["headers"])
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
            if answer.started:
                raise  # too late to answer; the server aborts the connection
            await respond(scope, translate(error))(scope, receive, answer)

    async def _count(self, exchange: Exchange) -> None:
        """Count the request against its rate limit; one without a limit waits for its turn."""
        scope, edge = exchange.scope, self._edge
        path = scope["path"]
        if not path.startswith(API) or path.startswith(edge.uncounted):
            await edge.pace.turn(exchange.address)
            return
        caller: Principal | None
        try:
            caller = await exchange.caller()
        except Refusal:  # the route refuses, if it requires a caller
            caller = None
        if caller is not None and caller.kind != "user":
            return
        exchange.counted = True
        count = self._counted(scope["method"], path.rstrip("/"), caller, exchange)
        if count is not None:
            exchange.rate = count.headers()
            count.check()

    def _counted(self, method: str, path: str, caller: Principal | None, exchange: Exchange) -> Count | None:
        limits, address = self._edge.limits, exchange.address
        own = self._edge.rate_limits.get((method, path))
        if own is None:
            return limits.request(caller, address, exchange.limit)
        return limits.request(caller, address, own.limit, by_address=own.by_address)

    def _bounded(self, exchange: Exchange, receive: Receive) -> Receive:
        headers = exchange.headers
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return receive
        limit = self._limit(exchange.scope["path"])
        if length is not None and length.isdigit() and int(length) > limit:
            raise too_large(limit)
        return Intake(exchange, receive, limit)

    def _limit(self, path: str) -> int:
        fitting = [prefix for prefix in self._edge.body_limits if path.startswith(prefix)]
        return self._edge.body_limits[max(fitting, key=len)] if fitting else self._edge.body_limit


class _Answer:
    """Sends an answer with the headers of every answer. Counts refusals of what is not counted otherwise."""

    __slots__ = ("_exchange", "_receive", "_replaced", "_send", "started")

    def __init__(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._replaced = False
        self.started = False

    async def __call__(self, message: Message) -> None:
        if self._replaced:
            return  # the rest of an answer instead of which another one was sent
        kind = message["type"]
        if kind in _STARTS and not self.started:
            await self._start(message)
            return
        if kind == "websocket.accept":
            self.started = True
        elif kind == "websocket.close" and not self.started:
            await self._instead(_not_opened(message.get("code")))
            return
        await self._send(message)

    async def _start(self, message: Message) -> None:
        self.started = True
        exchange, status = self._exchange, message["status"]
        if status in FAILURES and not exchange.counted:
            exchange.counted = True
            try:
                _count_failure(exchange, status)
            except RateLimited as refusal:
                self.started = False
                await self._instead(refusal)
                return
        headers = completed(message.get("headers", ()), api=exchange.scope["path"].startswith(API))
        given = {name for name, _ in headers}
        headers += [pair for pair in exchange.raw_headers() if pair[0] not in given]
        if status >= 400 and unread(exchange.scope):
            # Whatever else the client sends of its body is not read as the next request.
            headers = [pair for pair in headers if pair[0] != b"connection"] + [(b"connection", b"close")]
        await self._send({**message, "headers": headers})

    async def _instead(self, refusal: Refusal) -> None:
        scope = self._exchange.scope
        await respond(scope, refusal)(scope, self._receive, self)
        self._replaced = True


def _not_opened(code: int | None) -> Refusal:
    # The framework closes a socket without a route, and with 1008 one whose parameters are invalid.
    if code == INVALID:
        return Refusal.of("INVALID_PARAMETER", "A parameter is missing or invalid")
    return Refusal.of("NOT_FOUND", "Not Found")


def _count_failure(exchange: Exchange, status: int) -> None:
    caller = exchange.known_caller
    if caller is not None and caller.kind == "agent" and status == 404:
        return  # its work may be gone, through no fault of its own
    exchange.edge.limits.failed(caller, exchange.address)
