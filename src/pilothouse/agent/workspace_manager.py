"""Prepares workspaces for steps, shares them between concurrent steps of a job, and removes unused ones."""

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

log = structlog.get_logger("agent.workspaces")


@dataclass(frozen=True, slots=True, eq=False)
class _Use:
    """The use of a workspace by one attempt. `ready` is set while its workspace is prepared and in use."""

    job_id: str
    step_index: int
    background: bool
    fresh: bool
    cancel: asyncio.Event
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def allows(self, other: _Use) -> bool:
        """Whether ``other`` may use the workspace at the same time: only another step of the same job, while this
        one is a background step that is not being cancelled."""
        return (
            self.background
            and self.ready.is_set()
            and not self.cancel.is_set()
            and not other.fresh
            and other.job_id == self.job_id
            and other.step_index != self.step_index
        )


@dataclass(slots=True)
class _State:
    """A workspace in use. `references`: number of current and waiting uses; `changed` is set when a use begins or
    ends; `remove_when_unused`: it is removed at the end of its last use."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    uses: list[_Use] = field(default_factory=list)
    references: int = 0
    remove_when_unused: bool = False

    def allows(self, use: _Use) -> bool:
        """Whether all current uses allow this one."""
        return all(there.allows(use) for there in self.uses)

    def notify(self) -> None:
        """Wake up waiting uses, which then check again."""
        self.changed.set()
        self.changed = asyncio.Event()


class WorkspaceManager:
    """The workspaces below `root`. `keep`: seconds after which an unused workspace is removed."""

    def __init__(
        self, root: Path, owner: tuple[int, int] | None, layout: Layout, agent_id: str, keep: float
    ) -> None:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._workspaces = Workspaces(root, owner)
        self._leftovers = self._workspaces.leftovers()
        self._layout = layout
        self._agent_id = agent_id
        self._keep = keep
        self._states: dict[str, _State] = {}
        self._afterwards: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def use(self, message: pb.StepRun, cancel: asyncio.Event) -> AsyncIterator[Path]:
        """The step's workspace: used exclusively while in the context, or shared with background steps of its job.

        Raises StepImpossible, StepCancelled, WorkspaceError, OSError.
        """
        name = _name(message)
        path = self._workspaces.path(name)
        fresh = message.fresh_workspace
        use = _Use(message.job_id, message.step_index, message.background, fresh, cancel)
        async with self._enter(name, use) as state:
            if fresh:
                await self._lay_out(name, message, cancel)
            elif not await asyncio.to_thread(path.is_dir):
                gone = f"the workspace of this job is gone from agent {self._agent_id} (rerun the whole run)"
                raise StepImpossible(gone)
            use.ready.set()
            state.notify()
            try:
                yield path
            finally:
                with contextlib.suppress(FileNotFoundError):  # the step itself may have removed it
                    os.utime(path)  # read by the sweep, also after a restart of the agent

    async def remove(self, message: pb.StepRun) -> None:
        """Remove the workspace of a finished job, at the end of its last use."""
        state = self._states.get(_name(message))
        if state is not None and state.uses:
            state.remove_when_unused = True
        else:
            await self._remove(_name(message))

    async def sweep(self) -> None:
        """Remove unused workspaces periodically, until cancelled."""
        await self._workspaces.discard_leftovers(self._leftovers)
        await self._layout.clean()
        while True:
            for name in await self._workspaces.existing():
                await self._sweep_one(name)
            await asyncio.sleep(min(SWEEP_EVERY, max(0.05, self._keep / 4)))

    async def close(self) -> None:
        """Cancel the background maintenance of the object cache."""
        if self._afterwards is not None:
            self._afterwards.cancel()
            await asyncio.wait({self._afterwards})

    async def _sweep_one(self, name: str) -> None:
        if name in self._states:
            return
        async with self._enter(name, _Use("", -1, background=False, fresh=True, cancel=asyncio.Event())):
            try:
                idle = time.time() - self._workspaces.path(name).stat().st_mtime
                if idle > self._keep:
                    await self._workspaces.remove(name)
                    log.info("agent.workspace_swept", workspace=name, idle=round(idle))
            except OSError as error:
                log.warning("agent.workspace_not_removed", workspace=name, reason=str(error))

    @contextlib.asynccontextmanager
    async def _enter(self, name: str, use: _Use) -> AsyncIterator[_State]:
        state = self._states.setdefault(name, _State())
        state.references += 1
        try:
            while not state.allows(use):
                await _unless(use.cancel, state.changed.wait())
            state.uses.append(use)
            try:
                yield state
            finally:
                use.ready.clear()
                if state.remove_when_unused and state.uses == [use]:
                    state.remove_when_unused = False
                    await asyncio.shield(self._remove(name))
                state.uses.remove(use)
                state.notify()
        finally:
            state.references -= 1
            if not state.references:
                del self._states[name]

    async def _remove(self, name: str) -> None:
        """Remove a workspace. A failure is logged; the sweep tries again."""
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
    """Await ``work``. If ``cancel`` is set first, cancels it and raises StepCancelled."""
    doing = asyncio.ensure_future(work)
    try:
        if await race(doing, cancel, None) != "done":
            raise StepCancelled("cancelled before it started")
        doing.result()
    finally:
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
