"""Changes by callers of routes: their rights are checked in the transaction that makes the change.

A request is authenticated when it begins and when its body has been read. Then a job in the worker pool, the hash of
a password or the writer's queue may take seconds, in which the caller may be deactivated, demoted or removed from a
project. So every change is made as ``use_case(tx, by)``, with ``by`` the caller as of this transaction::

    async def end_login(change: Change, …) -> Response:
        await change(lambda tx, by: identity.logins.end(tx, by, session))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.exchange import Exchange
from pilothouse.edge.openapi import route_actions
from pilothouse.storage import Tx

T = TypeVar("T")


class Mutation:
    """Runs the use case of a route that changes something. With a POST that creates or starts something, use
    :class:`pilothouse.edge.idempotency.Idempotent`."""

    def __init__(self, request: Request) -> None:
        self._exchange = Exchange.of(request.scope)

    async def __call__(self, use_case: Callable[[Tx, Principal], T]) -> T:
        """Run ``use_case`` in a transaction; returns its result once that is on disk.

        Raises what the use case raises, ``AUTH_TOKEN_INVALID``, ``AUTH_TOKEN_EXPIRED``, and
        ``AUTH_INSUFFICIENT_PERMISSIONS`` if the caller may not use the route any more.
        """
        permitted = await current_caller(self._exchange)
        storage = self._exchange.edge.answers.storage
        return await storage.write(lambda tx: use_case(tx, permitted(tx)))


async def current_caller(exchange: Exchange) -> Callable[[Tx], Principal]:
    """For use in a transaction: the caller with the rights that they have then, who may use the route."""
    caller = await exchange.caller()
    authentication = exchange.edge.authentication
    actions = tuple(route_actions(exchange.scope.get("route")))

    def permitted(tx: Tx) -> Principal:
        by = authentication.current(tx.conn, caller, tx.now)
        for action in actions:
            require(by, action)
        return by

    return permitted


Change = Annotated[Mutation, Depends()]
