"""Services as parameters of route functions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from pilothouse.edge.exchange import Exchange
from pilothouse.journal import Feed
from pilothouse.storage import Storage
from pilothouse.workers.pool import Pool


def provided(kind: type) -> Any:
    """A route parameter: the service of this type.

    Each package defines an alias for its services::

        FleetService = Annotated[Fleet, provided(Fleet)]

        @router.get("/agents", dependencies=[allow("agent.read")])
        async def agents(fleet: FleetService) -> …
    """

    async def find(connection: HTTPConnection) -> object:
        return Exchange.of(connection.scope).edge.services[kind]

    return Depends(find)


JournalFeed = Annotated[Feed, provided(Feed)]
"""The journal's feed, as a parameter of a route that follows it."""

Database = Annotated[Storage, provided(Storage)]
"""The database handle of a route."""

WorkerPool = Annotated[Pool, provided(Pool)]
"""The worker pool, as a parameter of a route; the job that it runs is listed in the package's module."""
