"""Background work of triggers: the ticks that are due and the events that have come, about every second.

One server at a time does it, under a lease. What it decides is decided again in each transaction, so that nothing
fires twice if the lease changes hands in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.engine.graph_json import decoded
from pilothouse.pipelines.store import newest_graph
from pilothouse.pipelines.triggers import store
from pilothouse.pipelines.triggers.model import RunEvent, Trigger, matches
from pilothouse.pipelines.triggers.service import ReadyRun, Triggers
from pilothouse.storage import Storage, StorageError, Tx

log = structlog.get_logger("pipelines.triggers")

EVERY, LEASE = 1.0, 10.0
"""Seconds between two rounds, and of the lease: so long after the crash of a server another one takes over."""

MAX_PAGES = 20
"""Pages of the journal that are read in one round."""

STORE_EVERY = 1000
"""Entries after which the position in the journal is stored, also if none of them was wanted."""


class Prepared(ReadyRun, Protocol):
    """A run whose files are deleted unless it was started."""

    def discard(self) -> None: ...

    def discard_unless_started(self) -> None: ...


Prepare = Callable[[str, Principal], Awaitable[Prepared | None]]
"""Fetches what a run of this pipeline needs, with these rights; ``None`` where the transaction finds it itself."""


class TriggerRounds:
    """Fires triggers."""

    def __init__(
        self, storage: Storage, triggers: Triggers, clock: Callable[[], int], prepare: Prepare
    ) -> None:
        self._storage = storage
        self._triggers = triggers
        self._clock = clock
        self._prepare = prepare
        self._stored = self._read = 0

    async def round(self) -> None:
        """Fire what is due."""
        await self._ticks()
        await self._events()

    async def _ticks(self) -> None:
        now = self._clock()
        for trigger in await self._storage.read(partial(store.due_triggers, now=now)):
            due = await asyncio.to_thread(trigger.due, now)
            await self._fire(
                trigger,
                partial(self._triggers.tick, trigger_id=trigger.id, expected=trigger.next_at, due=due),
            )

    async def _events(self) -> None:
        if not self._stored:
            self._stored = self._read = await self._storage.read(store.stored_position)
        for _ in range(MAX_PAGES):
            pairs, following = await self._storage.read(self._page)
            for trigger, event in pairs:
                await self._fire(trigger, partial(self._triggers.react, trigger_id=trigger.id, event=event))
            done, self._read = following == self._read, following
            if self._read - self._stored >= STORE_EVERY or (pairs and self._read > self._stored):
                await self._storage.write(partial(store_position, offset=self._read))
                self._stored = self._read
            if done:
                return

    def _page(self, conn: Connection) -> tuple[list[tuple[Trigger, RunEvent]], int]:
        events, following = store.run_events(conn, self._read)
        projects = {event.project for event in events}
        known = store.event_triggers(conn, projects) if projects else []
        return [(one, event) for event in events for one in known if matches(one, event)], following

    async def _fire(self, trigger: Trigger, use_case: Callable[..., Any]) -> None:
        try:
            graph = await self._storage.read(partial(newest_graph, pipeline_id=trigger.pipeline_id))
            if graph:  # up to 20 ms for 5,000 steps; the transaction finds the result in the cache
                await asyncio.to_thread(decoded, graph)
            ready = await self._ready(trigger)
            try:
                await self._storage.write(partial(use_case, ready=ready))
            except BaseException:
                if ready is not None and not isinstance(ready, Refusal):
                    ready.discard()
                raise
            if ready is not None and not isinstance(ready, Refusal):
                ready.discard_unless_started()
        except StorageError:
            raise
        except Exception:  # an error of one trigger must not stop the others
            log.exception("triggers.fire_failed", trigger=trigger.id)

    async def _ready(self, trigger: Trigger) -> Prepared | Refusal | None:
        by = await self._storage.read(partial(self._triggers.owner, trigger=trigger))
        if by is None or not by.may("run.trigger", trigger.project):
            return None  # the transaction says so
        try:
            return await self._prepare(trigger.pipeline_id, by)
        except Refusal as refusal:
            return refusal


def store_position(tx: Tx, offset: int) -> None:
    """Remember how far the journal has been read."""
    store.store_position(tx.conn, offset)
