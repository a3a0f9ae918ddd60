"""What a package adds to the product, and what it is built from.

Each package has a function ``module(core, …) -> Module`` in its ``module.py``; the composition root calls them in the
order of the layers and loops over what they return (docs/architecture.md, "How to add a domain").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from fastapi import APIRouter
from sqlalchemy import Connection

from pilothouse.edge.asyncapi import Channel
from pilothouse.edge.limits import RouteLimit
from pilothouse.journal import Feed, Journal
from pilothouse.storage import Storage
from pilothouse.storage.keyring import Keyring
from pilothouse.workers.pool import Pool

T = TypeVar("T")


class Core:
    """What modules share: the database, the journal, the clock, the worker pool, and the services of the modules
    built before.

    ``clock`` gives ms since 1970; ``keyring`` holds the server's secret keys, of which each purpose derives its own;
    ``server_id`` names this server process among all servers of the database.
    """

    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        clock: Callable[[], int],
        keyring: Keyring,
        server_id: str,
        pool: Pool,
    ) -> None:
        self.storage = storage
        self.journal = journal
        self.clock = clock
        self.keyring = keyring
        self.server_id = server_id
        self.pool = pool
        self.services: dict[type, object] = {
            Storage: storage,
            Journal: journal,
            Feed: journal.feed,
            Pool: pool,
        }

    def provide(self, *services: object) -> None:
        """Offer services to later modules and, as :func:`provided` parameters, to routes; found by their type."""
        self.services.update((type(service), service) for service in services)

    def service(self, kind: type[T]) -> T:
        """The service of this type. Raises :class:`KeyError` if no module before provides it."""
        return cast(T, self.services[kind])


@dataclass(frozen=True, slots=True)
class RpcService:
    """One gRPC service: its full protobuf name, and what adds it to a server.

    ``open``: methods that need no credential in the metadata; they check what their messages carry. ``max_message``:
    bytes of a message, by method, where the usual limit does not fit.
    """

    name: str
    add: Callable[[Any], None]
    open: frozenset[str] = frozenset()
    max_message: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Periodic:
    """Background work, done again and again for as long as the server runs.

    ``run`` is awaited every ``every`` seconds (counted from the end of the round before) and as soon as ``wake`` is
    set; with ``every`` None only then. What it raises is logged, and the next round tries again. ``exclusive`` work
    is done by one server at a time, under a lease in the database; every server does the other kind itself. The lease
    is taken for ``lease`` seconds, and renewed when half of them are over; without it for one round.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    every: float | None = None
    wake: asyncio.Event | None = None
    exclusive: bool = False
    lease: float | None = None


@dataclass(frozen=True, slots=True)
class Gauge:
    """One figure of ``/metrics`` (there with the prefix ``pilothouse_``): values by label, which may be unnamed."""

    name: str
    help: str
    values: Mapping[str, float]
    label: str = ""


@dataclass(frozen=True, slots=True)
class PublicEvent:
    """How an entry type appears as ``arcentra.<object>.<lifecycle>``; an empty lifecycle comes from its status.

    ``id`` and ``name``: the keys of the entry's body that hold the object's id and name, for objects other than
    pipelines, jobs, steps and agents; the stream of such an object is ``<object>/<id>``.
    """

    object: str
    lifecycle: str = ""
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Module:
    """One package's part of the product. What is empty by default is not added.

    ``streams``: by kind of stream name (``run`` of ``run/<id>``) the error code for one that does not exist.
    ``events``: entry types that are public events. ``envelope_prefixes``: paths that answer in the Arcentra envelope.
    ``body_limits``: bytes by path prefix. ``metrics`` reads figures of the whole database.
    ``channels``: its WebSocket and SSE streams, for ``/asyncapi.json``.
    ``jobs``: the functions that it runs in the worker pool (``core.pool``), each at the top of a module that imports
    no more than the job needs.
    ``started`` is awaited once, before the server accepts connections. ``stopping`` is called when it begins to stop,
    ``closed`` when all transactions have ended.
    """

    name: str
    routers: tuple[APIRouter, ...] = ()
    rpc: tuple[RpcService, ...] = ()
    streams: Mapping[str, str] = field(default_factory=dict)
    events: Mapping[str, PublicEvent] = field(default_factory=dict)
    background: tuple[Periodic, ...] = ()
    metrics: Callable[[Connection], Iterable[Gauge]] | None = None
    envelope_prefixes: tuple[str, ...] = ()
    body_limits: Mapping[str, int] = field(default_factory=dict)
    rate_limits: tuple[RouteLimit, ...] = ()
    channels: tuple[Channel, ...] = ()
    jobs: tuple[Callable[..., Any], ...] = ()
    started: Callable[[], Awaitable[object]] | None = None
    stopping: Callable[[], object] | None = None
    closed: Callable[[], object] | None = None
