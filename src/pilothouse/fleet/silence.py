"""Finding agents that have gone silent."""

from __future__ import annotations

from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage


class SilenceMonitor:
    """Takes silent agents offline and ends overdue leases, but never for a silence that the database caused."""

    def __init__(self, storage: Storage, fleet: Fleet) -> None:
        self._storage = storage
        self._fleet = fleet
        self._outages = storage.outages

    async def check(self) -> None:
        """Run this about every second. After an outage of the database every agent gets a full lease first."""
        outages = self._storage.outages
        if outages == self._outages:
            await self._storage.write(self._fleet.reap)
            return
        await self._storage.write(self._fleet.spare)
        if self._storage.outages == outages:
            self._outages = outages
