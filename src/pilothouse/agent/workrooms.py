"""Which workspace a step gets: laid out anew, as its job left it, or none because it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from pilothouse.agent.checkout import CheckoutFetcher
from pilothouse.agent.errors import StepCancelled, StepImpossible
from pilothouse.agent.executors.base import race
from pilothouse.agent.workspace import WorkspaceError, Workspaces
from pilothouse.wire.agent.v1 import agent_pb2 as pb

SWEEP_EVERY = 600.0  # seconds, at most

log = structlog.get_logger("agent.workrooms")


@dataclass(slots=True)
class _Room:
    """A workspace that a step uses or waits for: one at a time, for an old attempt may still be dying in it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Workrooms:
    """The workspaces below `root`. `keep`: seconds that one nobody uses stays."""

    def __init__(
        self, root: Path, owner: tuple[int, int] | None, fetcher: CheckoutFetcher, agent_id: str, keep: float
    ) -> None:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for leftover in root.glob(".fetch-*"):
            leftover.unlink()
        self._root = root
        self._workspaces = Workspaces(root, owner)
        self._fetcher = fetcher
        self._agent_id = agent_id
        self._keep = keep
        self._rooms: dict[str, _Room] = {}

    @contextlib.asynccontextmanager
    async def use(self, message: pb.StepRun, cancel: asyncio.Event) -> AsyncIterator[Path]:
        """The step's workspace, its own while in the context.

        Raises StepImpossible, StepCancelled, WorkspaceError, OSError.
        """
        name = message.workspace or message.job_id
        path = self._workspaces.path(name)
        async with self._room(name, cancel):
            if message.fresh_workspace:
                await self._lay_out(name, message, cancel)
            elif not await asyncio.to_thread(path.is_dir):
                gone = f"the workspace of this job is gone from agent {self._agent_id} (rerun the whole run)"
                raise StepImpossible(gone)
            try:
                yield path
            finally:
                with contextlib.suppress(FileNotFoundError):  # the step itself may have removed it
                    os.utime(path)  # the sweep goes by it, also after a restart of the agent

    async def remove(self, message: pb.StepRun) -> None:
        """The job is over. What cannot be removed is logged, and left to the sweep."""
        name = message.workspace or message.job_id
        try:
            await self._workspaces.remove(name)
        except (WorkspaceError, OSError) as error:
            log.warning("agent.workspace_not_removed", workspace=name, reason=str(error))

    async def sweep(self) -> None:
        """Removes what has not been used for long; until cancelled."""
        while True:
            for name in await self._workspaces.existing():
                await self._sweep_one(name)
            await asyncio.sleep(min(SWEEP_EVERY, max(0.05, self._keep / 4)))

    async def _sweep_one(self, name: str) -> None:
        if name in self._rooms:
            return
        async with self._room(name, asyncio.Event()):
            try:
                idle = time.time() - self._workspaces.path(name).stat().st_mtime
                if idle > self._keep:
                    await self._workspaces.remove(name)
                    log.info("agent.workspace_swept", workspace=name, idle=round(idle))
            except OSError as error:
                log.warning("agent.workspace_not_removed", workspace=name, reason=str(error))

    @contextlib.asynccontextmanager
    async def _room(self, name: str, cancel: asyncio.Event) -> AsyncIterator[None]:
        room = self._rooms.setdefault(name, _Room())
        room.users += 1
        try:
            if room.lock.locked():
                await _unless(cancel, room.lock.acquire())
            else:
                await room.lock.acquire()
            try:
                yield
            finally:
                room.lock.release()
        finally:
            room.users -= 1
            if not room.users:
                del self._rooms[name]

    async def _lay_out(self, name: str, message: pb.StepRun, cancel: asyncio.Event) -> None:
        if not message.HasField("checkout"):
            await self._workspaces.fresh(name)
            return
        checkout = message.checkout
        archive = self._root / f".fetch-{name}"
        try:
            await _unless(cancel, self._fetcher.fetch(checkout, archive))
            await self._workspaces.unpack(name, archive, checkout.sha256, checkout.size)
        finally:
            archive.unlink(missing_ok=True)


async def _unless(cancel: asyncio.Event, work: Coroutine[None, None, object]) -> None:
    """Await the work. Raises StepCancelled, and has ended it, if the event comes first."""
    doing = asyncio.ensure_future(work)
    try:
        if await race(doing, cancel, None) != "done":
            raise StepCancelled("cancelled before it started")
        doing.result()
    finally:
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
