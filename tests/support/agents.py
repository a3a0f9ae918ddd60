"""Agents in the test's own process, connected to the control plane of `support.control_plane`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent.main import run_agent
from pilothouse.agent.results import Result, ResultStore
from pilothouse.agent.settings import AgentSettings
from support.control_plane import REGISTRATION, ControlPlane
from support.waiting import PATIENCE


class Agent:
    """One life of an agent in this process."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self._stop = asyncio.Event()
        self.task = asyncio.create_task(run_agent(settings, self._stop))

    async def stop(self) -> int:
        self._stop.set()
        return await asyncio.wait_for(self.task, PATIENCE)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.task, PATIENCE)


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def options(plane: ControlPlane, tmp_path: Path) -> dict[str, Any]:
    return {
        "server": "http://127.0.0.1:9",
        "grpc": plane.address,
        "token": REGISTRATION,
        "agent_id": "worker-1",
        "labels": {"pool": "test"},
        "slots": 4,
        "data_dir": tmp_path / "agent",
    }


@contextlib.asynccontextmanager
async def running(options: dict[str, Any], **more: Any) -> AsyncIterator[Agent]:
    agent = Agent(AgentSettings(**{**options, **more}))
    try:
        yield agent
    finally:
        if not agent.task.done():
            await agent.stop()


def command(text: str) -> dict[str, Any]:
    return {"args": {"command": text}}


def dummy(**args: Any) -> dict[str, Any]:
    return {"uses": "dummy", "action": "", "args": args}


def unsettled(options: dict[str, Any]) -> dict[str, Result]:
    """The results on the agent's disk that no server has taken."""
    return dict(ResultStore(options["data_dir"] / "spool" / "results").unsettled)
