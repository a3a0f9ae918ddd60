"""What goes on by itself: the scheduler's wake-ups, timeouts, retries, and calling the silent offline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog

from pilothouse.engine.dispatch import Dispatcher
from pilothouse.engine.retention import Retention
from pilothouse.engine.service import Engine
from pilothouse.fleet.service import Fleet
from pilothouse.storage import StorageClosed, StorageError, Tx, Writer, now_ms

log = structlog.get_logger("server.background")

T = TypeVar("T")

TICK = 1.0
PRUNE_EVERY = 60.0
SWEEP_EVERY = 3600.0


class Background:
    """The server's own tasks; one of each, ended with the server."""

    def __init__(
        self, writer: Writer, engine: Engine, fleet: Fleet, dispatcher: Dispatcher, retention: Retention
    ) -> None:
        self._writer = writer
        self._engine = engine
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._retention = retention
        self._outages = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        fleet.on_change(self._changed.set)

    def start(self) -> None:
        """Begin; work queued before a restart is looked at at once."""
        self._changed.set()
        self._tasks = [asyncio.create_task(work()) for work in (self._schedule, self._tick, self._prune)]

    async def stop(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _schedule(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()  # what changes from here on is looked at in the next round
            await self._guarded(self._dispatcher.dispatch)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            await self.reap()
            for run_id in await self._guarded(self._engine.due) or ():
                await self._guarded(partial(self._engine.move_on, run_id=run_id))
            await self._guarded(self._dispatcher.forsake)

    async def reap(self) -> None:
        """Call the silent lost, unless it was the database that heard nobody: then they are spared this once."""
        outages = self._writer.outages
        if outages == self._outages:
            await self._guarded(self._fleet.reap)
            return
        await self._guarded(self._fleet.spare)
        if self._writer.outages == outages:
            self._outages = outages

    async def _prune(self) -> None:
        swept = -SWEEP_EVERY
        while True:
            await self._guarded(self._retention.prune)
            if asyncio.get_running_loop().time() - swept > SWEEP_EVERY:
                swept = asyncio.get_running_loop().time()
                await self._sweep()
            await asyncio.sleep(PRUNE_EVERY)

    async def _sweep(self) -> None:
        try:
            await self._retention.sweep(now_ms())
        except StorageClosed:
            raise asyncio.CancelledError from None
        except StorageError as error:
            log.warning("server.background_delayed", task="sweep", error=str(error))
        except Exception:
            log.exception("server.background_failed", task="sweep")

    async def _guarded(self, use_case: Callable[[Tx], T]) -> T | None:
        try:
            return await self._writer.write(use_case)
        except StorageClosed:
            raise asyncio.CancelledError from None
        except StorageError as error:  # no fault of ours, and told in storage.unavailable
            log.warning("server.background_delayed", task=_name(use_case), error=str(error))
        except Exception:
            # One bad row must not stop the clock for everybody else; the next round tries again.
            log.exception("server.background_failed", task=_name(use_case))
        await asyncio.sleep(TICK)
        return None


def _name(use_case: Callable[[Tx], object]) -> str:
    return str(getattr(use_case, "__qualname__", ""))
