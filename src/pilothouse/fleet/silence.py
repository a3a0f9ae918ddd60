"""Finding agents that have gone silent."""

from __future__ import annotations

import time
from collections.abc import Callable

from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage

TICK = 1.0
"""Seconds from one check to the next."""


class SilenceMonitor:
    """Takes silent agents offline and ends overdue leases, but never for a silence that this server caused.

    Silence is judged by when words of agents have arrived, not by when the writer has come to them: the check counts
    up to the moment in which it is queued, behind all that had arrived by then.
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
        """Run this every :data:`TICK`. After an outage of the database, or where this server stood still, every
        agent gets a full lease first."""
        outages, at, now = self._storage.outages, self._clock(), self._timer()
        stood_still = now - self._checked > TICK + self._fleet.settings.offline_after / 2
        self._checked = now
        if outages == self._outages and not stood_still:
            await self._storage.write(lambda tx: self._fleet.reap(tx, at))
            return
        await self._storage.write(self._fleet.spare)
        if self._storage.outages == outages:
            self._outages = outages
