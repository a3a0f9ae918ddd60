"""A writer that cannot write for two leases, in a real server on each database: no lease is lost for it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pilothouse.storage.postgres import _LOCK
from support.databases import Backend
from support.fake_agent import SUCCESS, FakeAgent, registered
from support.server import Server, running, spec_for
from support.waiting import eventually, slowness

SLOW = slowness()
LEASE, OFFLINE_AFTER, HEARTBEAT = 3.0 * SLOW, 2.0 * SLOW, 0.3
"""Seconds. On a busy machine the agents, which are in the process of the test, may be late by as much."""
Hold = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _hold_sqlite(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        yield
        conn.execute("ROLLBACK")


@contextlib.contextmanager
def _hold_postgres(url: str) -> Iterator[None]:
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql")) as conn:
        conn.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield


@pytest.fixture
def held(backend: Backend, tmp_path: Path) -> Iterator[tuple[Server, Hold]]:
    """A server with short leases, and what makes its writer wait."""
    times: dict[str, Any] = {
        "agent_heartbeat": HEARTBEAT,
        "agent_offline_after": OFFLINE_AFTER,
        "lease": LEASE,
    }
    if backend.server is None:
        with running(tmp_path, **times) as server:
            yield server, lambda: _hold_sqlite(server.data_dir / "pilothouse.db")
        return
    url = backend.create()
    with running(tmp_path, **times, database_url=url) as server:
        yield server, lambda: _hold_postgres(url)


@contextlib.asynccontextmanager
async def beating(agent: FakeAgent, also: int = 0) -> AsyncIterator[None]:
    """Heartbeats at their interval; ``also`` so many other messages before each."""

    async def beat() -> None:
        while True:
            for _ in range(also):
                await agent.say(task_status={"step_run_id": "", "status": 99})
            await agent.beat()
            await asyncio.sleep(HEARTBEAT)  # as agents do

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def begun(server: Server, name: str) -> tuple[FakeAgent, str, Any]:
    agent = await registered(server, name)
    run_id = server.trigger(server.pipeline(name, spec_for(name)))
    task = await agent.task()
    await agent.ack(task)
    await eventually(lambda: step(server, run_id)["status"] == "running")
    return agent, run_id, task


def step(server: Server, run_id: str) -> Any:
    return server.ask("GET", f"/workflow-runs/{run_id}")["jobs"][0]["steps"][0]


async def test_a_writer_that_waits_for_two_leases_loses_nothing(held: tuple[Server, Hold]) -> None:
    """One agent beats, another sends more than is read, a third is gone: only its step is lost, and only later."""
    server, hold = held
    async with contextlib.AsyncExitStack() as beats:
        quiet, quiet_run, quiet_task = await begun(server, "quiet")
        await beats.enter_async_context(beating(quiet))
        busy, busy_run, busy_task = await begun(server, "busy")
        await beats.enter_async_context(beating(busy))
        gone, gone_run, _ = await begun(server, "gone")
        acks = [{"command_id": busy_task.command_id, "status": 1}] * 2000
        with hold():
            for ack in acks:
                await busy.say(task_ack=ack)
            await asyncio.sleep(2 * LEASE)  # what is tested is a time
        for agent, task in ((quiet, quiet_task), (busy, busy_task)):
            await agent.lines(task.step_run_id, ["still here"])
            await agent.finish(task, SUCCESS)
        for run_id in (quiet_run, busy_run):
            await eventually(lambda id=run_id: step(server, id)["status"] == "succeeded")  # type: ignore[misc]
            assert len(step(server, run_id)["attempts"]) == 1
        await eventually(lambda: step(server, gone_run)["status"] == "failed")
        assert "lost" in step(server, gone_run)["attempts"][0]["error"]
        assert server.ask("GET", "/agents/quiet")["status"] == "online"
    for agent in (quiet, busy, gone):
        await agent.vanish()
    assert server.failures() == []
