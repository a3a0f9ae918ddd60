"""Background work: delivers what is due. Every server does it; each delivery is claimed by one of them first.

Attempts run beside each other, and what is slow holds only its own share: so many of a kind, of a project, and of a
receiver at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from pilothouse.pipelines.notifications import store
from pilothouse.pipelines.notifications.model import CHAT, EMAIL, WEBHOOK, Busy, Delivery, Outcome
from pilothouse.pipelines.notifications.service import Notifications
from pilothouse.storage import Storage, StorageClosed, StorageError

log = structlog.get_logger("pipelines.notifications")

EVERY = 1.0
"""Seconds between two rounds; what becomes due by this server is sent at once."""

AT_ONCE = {WEBHOOK: 32, EMAIL: 4, CHAT: 4}
OF_PROJECT = {WEBHOOK: 8, EMAIL: 2, CHAT: 2}
"""Of a kind: less than there are, or one project with slow receivers would keep all others waiting."""
OF_QUEUE = 2

WITHIN = 40.0
"""Seconds of one attempt, waiting for a worker included; less than the claim lasts."""

MAX_PAGES = 20

Deliver = Callable[[Delivery], Awaitable[Outcome]]


class Sender:
    """Sends what is due."""

    def __init__(
        self,
        storage: Storage,
        notifications: Notifications,
        clock: Callable[[], int],
        deliver: Deliver,
        wake: asyncio.Event,
    ) -> None:
        self._storage = storage
        self._notifications = notifications
        self._clock = clock
        self._deliver = deliver
        self._wake = wake
        self._running: dict[asyncio.Task[None], Delivery] = {}
        self._begun = self._stopped = False

    async def round(self) -> None:
        """Begin the attempts that are due, as many as there is room for."""
        if not self._begun and not self._storage.shared:
            await self._storage.write(self._notifications.release)
        self._begun = True
        for _ in range(0 if self._stopped else MAX_PAGES):
            chosen = self._chosen(await self._due())
            if not chosen:
                return
            claimed = await self._storage.write(partial(self._notifications.claim, due=chosen))
            for one in claimed:
                task = asyncio.create_task(self._attempt(one), name="notification")
                self._running[task] = one
                task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Cancel what is under way: another server tries it again, or this one after its next start."""
        self._stopped = True
        for task, one in self._running.items():
            task.cancel()
            freed = self._storage.submit(partial(self._notifications.give_back, delivery=one))
            freed.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def _due(self) -> list[Delivery]:
        busy = self._busy(list(self._running.values()))
        query = partial(store.due_deliveries, now=self._clock(), busy=busy, limit=sum(AT_ONCE.values()))
        return await self._storage.read(query)

    def _chosen(self, due: list[Delivery]) -> list[Delivery]:
        """Those for which there is room now."""
        taken = list(self._running.values())
        chosen: list[Delivery] = []
        for one in due:
            busy = self._busy(taken)
            if one.plugin in busy.plugins or one.share in busy.shares or one.queue in busy.queues:
                continue
            taken.append(one)
            chosen.append(one)
        return chosen

    def _busy(self, taken: list[Delivery]) -> Busy:
        plugins = Counter(one.plugin for one in taken)
        shares = Counter((one.share, one.plugin) for one in taken)
        queues = Counter(one.queue for one in taken)
        return Busy(
            frozenset(plugin for plugin, count in plugins.items() if count >= AT_ONCE[plugin]),
            frozenset(share for (share, plugin), count in shares.items() if count >= OF_PROJECT[plugin]),
            frozenset(queue for queue, count in queues.items() if count >= OF_QUEUE),
        )

    async def _attempt(self, one: Delivery) -> None:
        attempts = one.attempts + 1
        try:
            async with asyncio.timeout(WITHIN):
                outcome = await self._deliver(one)
        except TimeoutError:
            outcome = Outcome(reason=f"no result within {WITHIN:g} s")
        except Exception:
            log.exception("notifications.attempt_failed", notification=one.id)
            outcome = Outcome(reason="an error of the server; its log says more")
        if not outcome.delivered:
            log.info(
                "notifications.not_delivered",
                notification=one.id,
                pipeline=one.pipeline_id,
                plugin=one.plugin,
                attempt=attempts,
                reason=outcome.reason,
            )
        await self._settle(one, attempts, outcome)

    async def _settle(self, one: Delivery, attempts: int, outcome: Outcome) -> None:
        settle = partial(self._notifications.settle, delivery=one, attempts=attempts, outcome=outcome)
        try:
            await self._storage.write(settle)
        except StorageClosed:
            return  # tried again after the next start
        except StorageError as error:  # tried again when the claim ends
            log.warning("notifications.not_stored", notification=one.id, error=str(error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled():
            self._wake.set()
