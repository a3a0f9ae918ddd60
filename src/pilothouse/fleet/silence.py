"""Detection of silent agents."""

from __future__ import annotations

import time
from collections.abc import Callable

from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage

TICK = 1.0
"""Seconds from one check to the next."""


class SilenceMonitor:
    """Takes silent agents offline and ends overdue leases, but not for a silence that this server caused.

    What counts is when messages of agents arrived, not when the writer processed them: a check judges the time at
    which it was queued, and runs after all messages that were queued before. Heartbeats that wait to be queued, and
    agents whose messages are not read at the moment, are known to :class:`Arrivals`.
    """

    def __init__(
        self,
        storage: Storage,
        fleet: Fleet,
        clock: Callable[[], int],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` gives ms since 1970; ``timer`` seconds, and never goes back."""
        self._storage = storage
        self._fleet = fleet
        self._clock = clock
        self._timer = timer
        self._outages = storage.outages
        self._checked = timer()

    async def check(self) -> None:
        """Run this every :data:`TICK`. After an outage of the database, or if this process was stopped for a while,
        every agent first gets a full lease."""
        outages, at, now = self._storage.outages, self._clock(), self._timer()
        stalled = now - self._checked > TICK + self._fleet.settings.offline_after / 2
        self._checked = now
        if outages == self._outages and not stalled:
            longest = max(self._fleet.settings.lease, self._fleet.settings.offline_after)
            heard = self._fleet.arrivals.since(at - int(longest * 1000))
            await self._storage.write(lambda tx: self._fleet.reap(tx, at, heard))
            return
        await self._storage.write(self._fleet.start_grace_period)
        if self._storage.outages == outages:
            self._outages = outages
