"""Applies what other servers have written about agents that are connected to this one."""

from __future__ import annotations

from pilothouse.fleet import store
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage, Tx


class Relay:
    """After another server has written: looks for work to hand out here, and for tasks to stop."""

    def __init__(self, storage: Storage, fleet: Fleet) -> None:
        self._storage = storage
        self._fleet = fleet
        self._sent: set[str] = set()

    async def catch_up(self) -> None:
        """Run this when another server has written."""
        await self._storage.write(self._catch_up)

    def _catch_up(self, tx: Tx) -> None:
        stopping = store.stopping_leases(tx.conn, self._fleet.server_id)
        for lease in stopping:
            if lease.id not in self._sent:
                self._fleet.stop_again(tx, lease)
        self._sent = {lease.id for lease in stopping}
        self._fleet.wake_after(tx)
