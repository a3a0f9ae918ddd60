"""Request bodies: bounded, and read only once it is known that the caller may send one."""

from __future__ import annotations

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from pilothouse.access.errors import Refusal
from pilothouse.edge.exchange import Exchange
from pilothouse.edge.openapi import required_checks

UNREAD = "pilothouse.unread"
"""The key of ``scope["extensions"]`` with the server's function that tells whether a part of the body is missing."""


class Unwanted(HTTPException):
    """A body that is not read: the request is refused. FastAPI only passes an HTTPException on while it reads one."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.message)
        self.refusal = refusal


class Intake:
    """Receives a body of at most ``limit`` bytes, after the checks of the route; more is 413.

    The framework reads and parses a body before it asks the route's dependencies. A slow body takes minutes, in which
    the caller may be deactivated or lose a role: at its end the checks are repeated, for the caller as they are then.
    """

    __slots__ = ("_admitted", "_exchange", "_left", "_limit", "_receive")

    def __init__(self, exchange: Exchange, receive: Receive, limit: int) -> None:
        self._exchange = exchange
        self._receive = receive
        self._limit = limit
        self._left = limit
        self._admitted = False

    async def __call__(self) -> Message:
        if not self._admitted:
            await self._admit()
            self._admitted = True
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise too_large(self._limit)
            if not message.get("more_body", False):
                self._exchange.forget_caller()
                await self._admit()
        return message

    async def _admit(self) -> None:
        scope = self._exchange.scope
        try:
            for check in required_checks(scope.get("route")):
                await check(Request(scope), await self._exchange.caller())
        except Refusal as refusal:
            raise Unwanted(refusal) from refusal


def unread(scope: Scope) -> bool:
    """Whether the client has not sent all of its body yet."""
    ask: Callable[[], bool] | None = scope.get("extensions", {}).get(UNREAD)
    return ask is not None and ask()


def too_large(limit: int) -> Unwanted:
    """The rest of the body is not read."""
    refusal = Refusal.of("PAYLOAD_TOO_LARGE", f"The body is larger than {limit} bytes")
    refusal.headers["Connection"] = "close"
    return Unwanted(refusal)
