"""Runs the background work of all modules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import structlog

from pilothouse.edge import store
from pilothouse.edge.module import Periodic
from pilothouse.storage import Storage, StorageClosed, StorageError, Tx

log = structlog.get_logger("server.background")

PAUSE = 1.0
"""Seconds before work that failed is retried."""


class Background:
    """One task per kind of work, ended with the server."""

    def __init__(self, storage: Storage, server_id: str, work: Iterable[Periodic]) -> None:
        self._storage = storage
        self._server_id = server_id
        self._work = tuple(work)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start; the first round of each kind of work begins immediately."""
        self._tasks = [asyncio.create_task(self._repeat(work), name=work.name) for work in self._work]

    async def stop(self) -> None:
        """Cancel all work. Another server, or this one once it is started again, need not wait for its leases."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StorageClosed, StorageError, TimeoutError):
            async with asyncio.timeout(PAUSE):
                await self._storage.write(lambda tx: store.release_periodic_leases(tx.conn, self._server_id))

    async def _repeat(self, work: Periodic) -> None:
        while True:
            if work.wake is not None:
                work.wake.clear()  # a change from here on is handled in the next round
            try:
                if not work.exclusive or await self._storage.write(lambda tx: self._take_lease(tx, work)):
                    await work.run()
            except StorageClosed:
                return
            except StorageError as error:  # not an error of the work; storage.unavailable is logged, too
                log.warning("server.background_delayed", task=work.name, error=str(error))
                await self._wait(work, PAUSE)
            except Exception:
                log.exception("server.background_failed", task=work.name)
                await self._wait(work, PAUSE)
            else:
                await self._wait(work, work.every)

    async def _wait(self, work: Periodic, seconds: float | None) -> None:
        if work.wake is None:
            assert seconds is not None, "work without a wake-up has a period"
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await work.wake.wait()

    def _take_lease(self, tx: Tx, work: Periodic) -> bool:
        # Without a lease of its own until the next round: a server that has crashed delays it by one round at most.
        length = int((work.lease or work.every or PAUSE) * 1000)
        keep = length // 2 if work.lease else 0
        return store.take_periodic_lease(
            tx.conn, work.name, self._server_id, tx.now, tx.now + length, keep=keep
        )
