"""Who may be in a workspace at the same time: a step alone, or beside the background steps of its job."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent.errors import StepCancelled, StepImpossible
from pilothouse.agent.workspace_manager import WorkspaceManager
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from support.layouts import Desk
from support.waiting import eventually

JOB = "job"


class Stay:
    """One attempt that uses a workspace until :meth:`left`."""

    def __init__(self, workspaces: WorkspaceManager, **fields: Any) -> None:
        self.message = pb.StepRun(**{"job_id": JOB, "workspace": "ws", **fields})
        self.cancel = asyncio.Event()
        self._leave = asyncio.Event()
        self.inside = False
        self._workspaces = workspaces
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._workspaces.use(self.message, self.cancel):
            self.inside = True
            await self._leave.wait()
            if self.message.last_in_job:
                await self._workspaces.remove(self.message)
        self.inside = False

    async def entered(self) -> Stay:
        await eventually(lambda: self.inside or self.task.done())
        assert self.inside
        return self

    async def left(self) -> None:
        self._leave.set()
        await self.task

    async def waits(self) -> bool:
        """It does not arrive, however often the loop iterates."""
        for _ in range(50):
            await asyncio.sleep(0.002)
        return not self.inside and not self.task.done()


@pytest.fixture
async def workspaces(tmp_path: Path) -> WorkspaceManager:
    desk = Desk(tmp_path)
    return WorkspaceManager(desk.root / "work", None, desk.layout, "a1", keep=3600)


def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "work" / "ws"


async def first(workspaces: WorkspaceManager, **fields: Any) -> Stay:
    return await Stay(workspaces, fresh_workspace=True, **fields).entered()


async def test_one_at_a_time(workspaces: WorkspaceManager) -> None:
    one = await first(workspaces)
    two = Stay(workspaces, step_index=1)
    assert await two.waits()
    await one.left()
    await (await two.entered()).left()


async def test_later_steps_run_beside_one_in_the_background(
    workspaces: WorkspaceManager, tmp_path: Path
) -> None:
    service = await first(workspaces, background=True)
    (path(tmp_path) / "made by the service").touch()
    test = await Stay(workspaces, step_index=1).entered()
    late = Stay(workspaces, step_index=2)
    assert await late.waits(), "but not beside each other"
    await test.left()
    await late.entered()
    assert (path(tmp_path) / "made by the service").exists()
    another = await Stay(workspaces, step_index=3, background=True).waits()
    assert another, "a foreground step is still there"
    await late.left()
    await service.left()


async def test_several_in_the_background(workspaces: WorkspaceManager) -> None:
    services = [await first(workspaces, background=True)]
    services.append(await Stay(workspaces, background=True, step_index=1).entered())
    test = await Stay(workspaces, step_index=2).entered()
    for stay in (*services, test):
        await stay.left()


async def test_an_attempt_waits_for_the_one_before_it(workspaces: WorkspaceManager) -> None:
    service = await first(workspaces, background=True)
    again = Stay(workspaces, background=True, step_index=0)
    assert await again.waits(), "an earlier attempt of the same step is there"
    await service.left()
    await (await again.entered()).left()


async def test_nothing_starts_where_an_attempt_is_dying(workspaces: WorkspaceManager) -> None:
    service = await first(workspaces, background=True)
    service.cancel.set()
    cleanup = Stay(workspaces, step_index=1)
    assert await cleanup.waits()
    await service.left()
    await (await cleanup.entered()).left()


async def test_a_new_round_waits_for_all(workspaces: WorkspaceManager, tmp_path: Path) -> None:
    service = await first(workspaces, background=True)
    (path(tmp_path) / "old").touch()
    test = await Stay(workspaces, step_index=1).entered()
    fresh = Stay(workspaces, fresh_workspace=True)
    await test.left()
    assert await fresh.waits()
    rerun = Stay(workspaces, job_id="the job of a rerun", step_index=1)
    assert await rerun.waits(), "it has the same workspace, and is another job"
    await service.left()
    await (await fresh.entered()).left()
    assert not (path(tmp_path) / "old").exists()
    await (await rerun.entered()).left()


async def test_a_later_step_waits_until_the_workspace_is_laid_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    workspaces = WorkspaceManager(desk.root / "work", None, desk.layout, "a1", keep=3600)
    going, asked = asyncio.Event(), asyncio.Event()

    async def slowly(checkout: pb.Checkout, staging: Path) -> Path:
        asked.set()
        await going.wait()
        (staging / "work").mkdir()
        return staging / "work"

    desk.layout.lay_out = slowly  # type: ignore[method-assign]
    service = Stay(workspaces, fresh_workspace=True, background=True, checkout=pb.Checkout(url="/x"))
    await asked.wait()
    test = Stay(workspaces, step_index=1)
    assert await test.waits()
    going.set()
    await service.entered()
    await test.entered()
    for stay in (test, service):
        await stay.left()


async def test_the_workspace_goes_with_the_last_who_leaves(
    workspaces: WorkspaceManager, tmp_path: Path
) -> None:
    service = await first(workspaces, background=True)
    last = await Stay(workspaces, step_index=1, last_in_job=True).entered()
    await last.left()
    assert path(tmp_path).exists(), "the service still works in it"
    await service.left()
    assert not path(tmp_path).exists()


async def test_the_workspace_goes_with_a_single_step(workspaces: WorkspaceManager, tmp_path: Path) -> None:
    await (await first(workspaces, last_in_job=True)).left()
    assert not path(tmp_path).exists()
    gone = Stay(workspaces, step_index=1)
    with pytest.raises(StepImpossible, match="gone from agent a1"):
        await gone.task


async def test_who_waits_can_be_cancelled(workspaces: WorkspaceManager) -> None:
    one = await first(workspaces)
    two, three = Stay(workspaces, step_index=1), Stay(workspaces, step_index=2)
    assert await two.waits()
    two.cancel.set()
    with pytest.raises(StepCancelled):
        await two.task
    await one.left()
    await (await three.entered()).left()
    assert workspaces._states == {}, "nothing is kept of workspaces that nobody uses"


async def test_a_failed_layout_ends_the_use(workspaces: WorkspaceManager) -> None:
    bad = Stay(
        workspaces, fresh_workspace=True, checkout=pb.Checkout(url="/nothing", sha256="0" * 64, size=1)
    )
    with contextlib.suppress(StepImpossible):
        await bad.task
    await (await first(workspaces)).left()
    assert workspaces._states == {}
