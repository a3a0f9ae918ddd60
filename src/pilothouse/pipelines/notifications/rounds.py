"""Background work: follows the journal, and stores the notifications that are due.

One server at a time does it, under a lease. The position in the journal is stored with what was found, so that
nothing is found twice if the lease changes hands, or the server is killed, in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, select
from uuid_utils import uuid7

from pilothouse.engine.store import jobs, run_row, steps
from pilothouse.identity.tables import projects
from pilothouse.pipelines.notifications import store
from pilothouse.pipelines.notifications.model import (
    FAILED,
    Delivery,
    DeliveryStatus,
    Ended,
    Wanted,
    queue_of,
    target_of,
)
from pilothouse.pipelines.notifications.payload import MAX_FAILED_STEPS, About, FailedStep, document
from pilothouse.pipelines.notifications.service import Notifications
from pilothouse.storage import Storage

EVERY, LEASE = 1.0, 10.0
"""Seconds between two rounds, and of the lease: so long after the crash of a server another one takes over."""

MAX_PAGES = 20
"""Pages of the journal that are read in one round."""

STORE_EVERY = 1000
"""Entries after which the position in the journal is stored, also if nothing was due."""


class NotificationRounds:
    """Finds the notifications that are due."""

    def __init__(self, storage: Storage, notifications: Notifications, clock: Callable[[], int]) -> None:
        self._storage = storage
        self._notifications = notifications
        self._clock = clock
        self._read = 0

    async def round(self) -> None:
        """Read on in the journal."""
        stored = await self._storage.read(store.stored_position)
        self._read = max(self._read, stored)  # another server may have read on meanwhile
        for _ in range(MAX_PAGES):
            found, following = await self._storage.read(self._page)
            done, self._read = following == self._read, following
            if found or self._read - stored >= STORE_EVERY:
                await self._storage.write(partial(self._notifications.decide, found=found, read=self._read))
                stored = self._read
            if done:
                return

    def _page(self, conn: Connection) -> tuple[list[Delivery], int]:
        ended, following = store.ended_from(conn, self._read)
        wanted = store.wanted_by(conn, {one.run_id for one in ended})
        found: list[Delivery] = []
        for one in ended:
            due = [
                (number, wish)
                for number, wish in enumerate(wanted.get(one.run_id, ()))
                if wish.due(one.job, one.status)
            ]
            body = document(one, about(conn, one)) if due else ""
            found += [self._delivery(one, number, wish, body) for number, wish in due]
        return found, following

    def _delivery(self, ended: Ended, number: int, wanted: Wanted, body: str) -> Delivery:
        now = self._clock()
        return Delivery(
            id=str(uuid7()),
            run_id=ended.run_id,
            offset=ended.offset,
            number=number,
            project=ended.project,
            pipeline_id=ended.pipeline_id,
            event=ended.event,
            job=ended.job,
            plugin=wanted.plugin,
            params=wanted.params,
            target=target_of(wanted.plugin, wanted.params),
            queue=queue_of(wanted.plugin, wanted.params, ended.project),
            body=body,
            status=DeliveryStatus.WAITING,
            created_at=now,
            since=now,
            next_at=now,
        )


def about(conn: Connection, ended: Ended) -> About:
    """What the stored run says beyond the entry."""
    name = conn.execute(select(projects.c.name).where(projects.c.id == ended.project)).scalar_one_or_none()
    row = run_row(conn, ended.run_id)
    if row is None:
        return About(name or "")
    failed = failed_steps(conn, ended) if ended.status in FAILED else []
    return About(
        name or "", row.branch, row.commit_sha, row.tag, row.trigger, row.triggered_by, tuple(failed)
    )


def failed_steps(conn: Connection, ended: Ended) -> list[FailedStep]:
    """The first steps of the run or job that have failed; they have rows, as every step that has changed."""
    wanted = [steps.c.run_id == ended.run_id, steps.c.status.in_(FAILED)]
    if ended.job_id:
        wanted.append(steps.c.job_id == ended.job_id)
    query = select(jobs.c.name, steps.c.name.label("step"), steps.c.status)
    query = query.join(jobs, jobs.c.id == steps.c.job_id).where(*wanted)
    query = query.order_by(jobs.c.index, steps.c.index).limit(MAX_FAILED_STEPS)
    return [FailedStep(row.name, row.step, row.status) for row in conn.execute(query)]
