"""An agent with an unkillable process, as reported to the server and shown to users."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent import main
from pilothouse.agent.executors.process import ProcessSettings
from support.agents import command, options, plane, running
from support.control_plane import CANCELLED, SUCCESS, ControlPlane
from support.steps import alive, written
from support.unkillable import Freezer, freezer
from support.waiting import PATIENCE, eventually

__all__ = ["freezer", "options", "plane"]  # fixtures


async def test_the_server_hears_of_it_before_the_result_and_when_it_is_over(
    plane: ControlPlane,
    options: dict[str, Any],
    tmp_path: Path,
    freezer: Freezer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "ProcessSettings", partial(ProcessSettings, grace=0.1, kill_within=0.3))
    plane.heartbeat = 3600  # none but those that something has happened for
    async with running(options):
        text = f"(setsid env -i /bin/sh -c 'echo $$ > {tmp_path}/left.pid; exec sleep 300' &) >/dev/null 2>&1"
        plane.offer("s1", **command(f"{text}; sleep 300"))
        left = int(await written(tmp_path / "left.pid"))
        with freezer(left):
            plane.cancel("s1")
            await eventually(lambda: "s1" in plane.ended)
            assert plane.heartbeats[-1].blocked_slots == 1
            (problem,) = plane.heartbeats[-1].problems
            assert problem.startswith(f"step job/step left processes that cannot be killed: {left} (sleep")
            assert plane.ended["s1"].status == CANCELLED
            reason = plane.ended["s1"].error_message
            assert reason.startswith(f"cancelled: asked; could not be killed within 0.3 s: {left} (sleep")
            plane.offer("s2", **command("true"))
            await eventually(lambda: "s2" in plane.ended)
            assert plane.ended["s2"].status == SUCCESS
            plane.cut()
            await eventually(lambda: len(plane.first_beats) == 2)
            assert plane.first_beats[-1].blocked_slots == 1
        await eventually(lambda: plane.heartbeats[-1].blocked_slots == 0)
        assert list(plane.heartbeats[-1].problems) == []
        assert not alive(left)


async def test_an_agent_ends_all_the_same(
    plane: ControlPlane,
    options: dict[str, Any],
    tmp_path: Path,
    freezer: Freezer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The remaining processes end as soon as they can, without a waiter."""
    monkeypatch.setattr(main, "STOP_WITHIN", 1.0)
    async with running(options) as agent:
        plane.offer("s1", **command(f"echo $$ > {tmp_path}/left.pid; exec sleep 300"))
        left = int(await written(tmp_path / "left.pid"))
        with freezer(left):
            assert await asyncio.wait_for(agent.stop(), PATIENCE) == 0
            assert alive(left)
        await eventually(lambda: not alive(left))
