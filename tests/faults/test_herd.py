"""All clients reconnect at the same time after a restart, each with its own cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from support.fake_agent import RUNNING, SUCCESS, FakeAgent
from support.faults.fleet import LONG, PATIENT, Fleet, chance, dummy, fleet, on
from support.faults.readers import Reader, room_for
from support.faults.watch import Pulse

HERD = 3000 if LONG else 300
LINES = 4000
AGENTS = 1000 if LONG else 60


@pytest.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[tuple[Fleet, list[Reader]]]:
    """Readers disconnected at various points of two runs: one completed, one running."""
    rng = chance("herd")
    room_for(HERD + 200)
    with fleet(tmp_path, **PATIENT) as made:
        made.agent("a").start()
        over = made.run("over", on("a", {"name": "j", "steps": [dummy("s", lines=LINES)]}))
        gate = tmp_path / "gate"
        script = f"seq -f 'line %.0f' 1 {LINES // 2}; until [ -e {gate} ]; do sleep 0.02; done; seq -f 'line %.0f' {LINES // 2 + 1} {LINES}"
        step = {"name": "s", "uses": "shell", "args": {"script": script}}
        live = made.run("live", on("a", {"name": "j", "steps": [step]}))
        await asyncio.to_thread(made.ended, over)
        readers = []
        for at in range(HERD):
            run_id, kind = (over, live)[at % 2], ("sse", "ws")[at // 2 % 2]
            readers.append(Reader(made.server, made.server.admin, run_id, kind))
        # A few have been in before; the others have their cursors from them.
        pioneers = readers[:40]
        await asyncio.gather(*(one.read(stop_after=rng.randrange(1, LINES // 2)) for one in pioneers))
        for at, one in enumerate(readers[40:]):
            known = pioneers[at % 4 + 4 * rng.randrange(10)]
            one.cursor, one.lines = known.cursor, known.lines
        yield made, readers


async def test_all_get_everything_and_the_server_still_answers(crowd: tuple[Fleet, list[Reader]]) -> None:
    made, readers = crowd
    await asyncio.to_thread(made.server.kill9)
    coming = [asyncio.create_task(one.follow(240 + HERD / 10)) for one in readers]  # it is not there yet
    await asyncio.to_thread(made.server.restart)
    with Pulse(made.server) as pulse:
        await asyncio.sleep(0.3)
        (made.directory / "gate").touch()
        await asyncio.gather(*coming)
        await asyncio.to_thread(pulse.healthy, 0.5)
    print(f"healthz: {len(pulse.took)} times, waited for {pulse.worst:.3f} s of work at most")
    assert {(one.lines, one.ended) for one in readers if one.run_id} == {(LINES, True)}
    assert made.server.failures() == []


async def test_all_agents_come_back_at_once_and_none_has_lost_its_step(tmp_path: Path) -> None:
    """Each during a step: every lease survives the restart, and every step succeeds in one attempt."""
    room_for(2 * AGENTS + 200)
    with fleet(tmp_path, **{**PATIENT, "lease": 600.0, "agent_offline_after": 600.0}) as made:
        token = made.server.registration_token()
        agents = [FakeAgent(made.server.grpc, f"h{at}") for at in range(AGENTS)]
        jobs = [{"name": f"j{at}", "steps": [{"name": "s", "uses": "dummy"}]} for at in range(AGENTS)]
        spec = {"jobs": [on(f"h{at}", job)["jobs"][0] for at, job in enumerate(jobs)]}
        try:
            for agent in agents:
                await agent.register(token)
                await agent.connect()
            run_id = await asyncio.to_thread(made.run, "herd", spec)
            tasks = await asyncio.gather(*(agent.task(300) for agent in agents))
            began = [
                agent.report(task.step_run_id, RUNNING) for agent, task in zip(agents, tasks, strict=True)
            ]
            assert all(answer.success for answer in await asyncio.gather(*began))
            await asyncio.to_thread(made.server.kill9)
            coming = [asyncio.create_task(_back(agent)) for agent in agents]  # it is not there yet
            await asyncio.to_thread(made.server.restart)
            with Pulse(made.server) as pulse:
                await asyncio.gather(*coming)
                await asyncio.to_thread(pulse.healthy, 0.5)
            ends = [
                agent.report(task.step_run_id, SUCCESS) for agent, task in zip(agents, tasks, strict=True)
            ]
            assert all(answer.success for answer in await asyncio.gather(*ends))
            shown = await asyncio.to_thread(made.ended, run_id, 300)
        finally:
            await asyncio.gather(*(agent.vanish() for agent in agents))
        assert shown["status"] == "succeeded"
        assert {len(step["attempts"]) for job in shown["jobs"] for step in job["steps"]} == {1}
        assert {agent.agent_id for agent in agents if agent.received} == {agent.agent_id for agent in agents}
        assert made.server.failures() == []


async def _back(agent: FakeAgent) -> None:
    """Reconnect as soon as the server accepts it."""
    while True:
        try:
            await agent.connect()
            await agent.call(
                "agent.v1.AgentService/Heartbeat", agent_id=agent.agent_id
            )  # it is there, and answers
            return
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.1)
