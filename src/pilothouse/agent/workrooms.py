"""Which workspace a step gets: laid out anew, as its job left it, or none because it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from pilothouse.agent.errors import StepCancelled, StepImpossible
from pilothouse.agent.executors.base import race
from pilothouse.agent.layout import Layout
from pilothouse.agent.workspace import WorkspaceError, Workspaces
from pilothouse.wire.agent.v1 import agent_pb2 as pb

SWEEP_EVERY = 600.0  # seconds, at most

log = structlog.get_logger("agent.workrooms")


@dataclass(frozen=True, slots=True, eq=False)
class _Guest:
    """Who is in a room. `ready` is set once its workspace is laid out, and cleared when it leaves."""

    job_id: str
    step_index: int
    background: bool
    fresh: bool
    cancel: asyncio.Event
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def bears(self, other: _Guest) -> bool:
        """Whether the other may come in while this one is here: a later step of the job beside one that runs in
        the background. Not beside an attempt that is dying, nor an attempt beside an earlier one of its step."""
        return (
            self.background
            and self.ready.is_set()
            and not self.cancel.is_set()
            and not other.fresh
            and other.job_id == self.job_id
            and other.step_index != self.step_index
        )


@dataclass(slots=True)
class _Room:
    """A workspace that somebody uses or waits for. `doomed`: it goes with the last who leaves."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    guests: list[_Guest] = field(default_factory=list)
    interested: int = 0
    doomed: bool = False

    def bears(self, guest: _Guest) -> bool:
        """Whether everybody in it does."""
        return all(there.bears(guest) for there in self.guests)

    def tell(self) -> None:
        """Those who wait may look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Workrooms:
    """The workspaces below `root`. `keep`: seconds that one nobody uses stays."""

    def __init__(
        self, root: Path, owner: tuple[int, int] | None, layout: Layout, agent_id: str, keep: float
    ) -> None:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._workspaces = Workspaces(root, owner)
        self._leftovers = self._workspaces.leftovers()
        self._layout = layout
        self._agent_id = agent_id
        self._keep = keep
        self._rooms: dict[str, _Room] = {}
        self._afterwards: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def use(self, message: pb.StepRun, cancel: asyncio.Event) -> AsyncIterator[Path]:
        """The step's workspace: its own while in the context, or shared with background steps of its job.

        Raises StepImpossible, StepCancelled, WorkspaceError, OSError.
        """
        name = _name(message)
        path = self._workspaces.path(name)
        fresh = message.fresh_workspace
        guest = _Guest(message.job_id, message.step_index, message.background, fresh, cancel)
        async with self._room(name, guest) as room:
            if fresh:
                await self._lay_out(name, message, cancel)
            elif not await asyncio.to_thread(path.is_dir):
                gone = f"the workspace of this job is gone from agent {self._agent_id} (rerun the whole run)"
                raise StepImpossible(gone)
            guest.ready.set()
            room.tell()
            try:
                yield path
            finally:
                with contextlib.suppress(FileNotFoundError):  # the step itself may have removed it
                    os.utime(path)  # the sweep goes by it, also after a restart of the agent

    async def remove(self, message: pb.StepRun) -> None:
        """The job is over: its workspace goes when the last who is in it has left."""
        room = self._rooms.get(_name(message))
        if room is not None and room.guests:
            room.doomed = True
        else:
            await self._remove(_name(message))

    async def sweep(self) -> None:
        """Removes what has not been used for long; until cancelled."""
        await self._workspaces.discard_leftovers(self._leftovers)
        await self._layout.clean()
        while True:
            for name in await self._workspaces.existing():
                await self._sweep_one(name)
            await asyncio.sleep(min(SWEEP_EVERY, max(0.05, self._keep / 4)))

    async def close(self) -> None:
        """End what goes on beside the steps."""
        if self._afterwards is not None:
            self._afterwards.cancel()
            await asyncio.wait({self._afterwards})

    async def _sweep_one(self, name: str) -> None:
        if name in self._rooms:
            return
        async with self._room(name, _Guest("", -1, background=False, fresh=True, cancel=asyncio.Event())):
            try:
                idle = time.time() - self._workspaces.path(name).stat().st_mtime
                if idle > self._keep:
                    await self._workspaces.remove(name)
                    log.info("agent.workspace_swept", workspace=name, idle=round(idle))
            except OSError as error:
                log.warning("agent.workspace_not_removed", workspace=name, reason=str(error))

    @contextlib.asynccontextmanager
    async def _room(self, name: str, guest: _Guest) -> AsyncIterator[_Room]:
        room = self._rooms.setdefault(name, _Room())
        room.interested += 1
        try:
            while not room.bears(guest):
                await _unless(guest.cancel, room.changed.wait())
            room.guests.append(guest)
            try:
                yield room
            finally:
                guest.ready.clear()
                if room.doomed and room.guests == [guest]:
                    room.doomed = False
                    await asyncio.shield(self._remove(name))
                room.guests.remove(guest)
                room.tell()
        finally:
            room.interested -= 1
            if not room.interested:
                del self._rooms[name]

    async def _remove(self, name: str) -> None:
        """What cannot be removed is logged, and left to the sweep."""
        try:
            await self._workspaces.remove(name)
        except (WorkspaceError, OSError) as error:
            log.warning("agent.workspace_not_removed", workspace=name, reason=str(error))

    async def _lay_out(self, name: str, message: pb.StepRun, cancel: asyncio.Event) -> None:
        if not message.HasField("checkout"):
            await self._workspaces.fresh(name)
            return
        await _unless(cancel, self._check_out(name, message.checkout))

    async def _check_out(self, name: str, checkout: pb.Checkout) -> None:
        staging = await self._workspaces.staging(name)
        try:
            prepared = await self._layout.lay_out(checkout, staging)
            await self._workspaces.adopt(name, prepared)
        finally:
            await self._workspaces.discard(staging)
        if self._afterwards is None or self._afterwards.done():
            self._afterwards = asyncio.create_task(self._layout.afterwards())


def _name(message: pb.StepRun) -> str:
    return message.workspace or message.job_id


async def _unless(cancel: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
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
