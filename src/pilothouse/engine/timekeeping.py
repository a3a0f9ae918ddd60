"""Periodic work on runs: timeouts, retries, the end of cleanup, workspaces on offline agents."""

from __future__ import annotations

from functools import partial

import structlog

from pilothouse.engine.dispatch import Dispatcher
from pilothouse.engine.service import Engine
from pilothouse.storage import Storage, StorageError

log = structlog.get_logger("engine.timekeeping")


class Timekeeper:
    """Processes the runs for which something is due."""

    def __init__(self, storage: Storage, engine: Engine, dispatcher: Dispatcher) -> None:
        self._storage = storage
        self._engine = engine
        self._dispatcher = dispatcher

    async def tick(self) -> None:
        """To be called about every second. Each run is processed in a separate transaction."""
        for run_id in await self._storage.write(self._engine.due):
            try:
                await self._storage.write(partial(self._engine.move_on, run_id=run_id))
            except StorageError:
                raise
            except Exception:  # an error in one run must not stop the others
                log.exception("engine.move_on_failed", run_id=run_id)
        await self._storage.write(self._dispatcher.give_up_workspaces)
