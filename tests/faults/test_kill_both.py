"""Server and agent killed, also in the moment between a step's start being acknowledged and its start."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.fake_agent import ACK_OK, RUNNING, SUCCESS, FakeAgent, registered
from support.faults.checker import Journal
from support.faults.fleet import PATIENT, ROUNDS, Fleet, chance, fleet, on, shell
from support.server import spec_for
from support.waiting import eventually


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("both"), **PATIENT) as made:
        yield made


def _steps(ledger: Path, count: int) -> list[dict[str, Any]]:
    return [
        shell(f"s{at}", f"echo $PILOT_STEP_RUN_ID >> {ledger}; seq 1 20; sleep 0.05") for at in range(count)
    ]


async def test_both_killed_again_and_again(lone: Fleet, tmp_path: Path) -> None:
    """With ``onLost: rerun`` a job may start three times, each step under a new id; with one id a step runs once."""
    rng, ledger = chance("kill both"), tmp_path / "ledger"
    agent = lone.agent("a", slots=4).start()
    lone.unforeseen()
    safe = {"name": "safe", "steps": _steps(ledger, 12), "onLost": "rerun"}
    run_id = lone.run("both", on("a", safe, {"name": "once", "steps": _steps(ledger, 12)}))
    for _ in range(2 * ROUNDS):
        await asyncio.sleep(rng.uniform(0.1, 0.8))  # the moment of the kill is the point
        victims = [lone.server, agent]
        rng.shuffle(victims)
        for victim in victims:
            await asyncio.to_thread(victim.kill9)
            await asyncio.sleep(rng.choice((0, 0.1)))
        await _brought_back(lone, rng)
    shown = await asyncio.to_thread(lone.ended, run_id)
    journal = Journal(lone.server.data_dir)
    journal.check()
    told = ledger.read_text().split()
    assert len(told) == len(set(told)), "one attempt ran twice"
    lines = {}
    for job in shown["jobs"]:
        restarts = [
            e for e in journal.of_run(run_id) if e.type == "job.restarted" and e.body["job"] == job["name"]
        ]
        _check_losses(job, len(restarts), allowed=2 if job["name"] == "safe" else 0)
        for step in job["steps"]:
            lines[f"{job['name']}/{step['name']}"] = _check_step(lone, run_id, job["name"], step, told)
    journal.check_run(run_id, lines, {node: 3 if node.startswith("safe/") else 1 for node in lines})
    assert journal.leases == 0
    assert lone.unforeseen() == []


async def _brought_back(made: Fleet, rng: random.Random) -> None:
    (agent,) = made.agents
    if rng.random() < 0.5:  # the agent may be the first to be back, too
        agent.start(online=False)
        await asyncio.to_thread(made.server.restart)
    else:
        await asyncio.to_thread(made.server.restart)
        agent.start(online=False)
    await eventually(lambda: made.status(agent) == "online", 120)


def _begun(attempt: dict[str, Any]) -> bool:
    """Whether it was lost after its start."""
    return bool(attempt["started_at"]) and attempt["error"].startswith("lost: ")


def _check_losses(job: dict[str, Any], restarts: int, allowed: int) -> None:
    """``onLost`` of a job counts for the job: whichever of its steps were lost, it starts again ``allowed`` times."""
    losses = sum(_begun(attempt) for step in job["steps"] for attempt in step["attempts"])
    assert restarts == min(losses, allowed), job
    if job["status"] == "succeeded":
        assert losses == restarts, job
    else:
        assert (job["status"], losses) == ("failed", allowed + 1), job
        assert sum(step["status"] == "failed" for step in job["steps"]) == 1, job


def _check_step(made: Fleet, run_id: str, job: str, step: dict[str, Any], told: list[str]) -> list[str]:
    *earlier, last = step["attempts"]
    if step["status"] == "succeeded":
        assert told.count(last["step_run_id"]) == 1
    elif step["status"] == "failed":
        assert _begun(last), step
    else:  # the steps after the one that failed; an earlier round of the job may have come further
        assert (step["status"], last["status"], last["started_at"]) == ("skipped", "skipped", None), step
        assert job == "safe" or not any(attempt["started_at"] for attempt in earlier), step
    lines = made.logs(run_id, job=job, step=step["name"])
    if step["status"] == "succeeded":
        assert lines[-20:] == [str(n) for n in range(1, 21)]
    return lines


async def _offered(made: Fleet, name: str) -> tuple[FakeAgent, Any, str]:
    agent = await registered(made.server, name)
    run_id = made.server.trigger(made.server.pipeline(name, spec_for(name)))
    return agent, await agent.task(), run_id


async def _bounce(made: Fleet) -> None:
    await asyncio.to_thread(made.server.kill9)
    await asyncio.to_thread(made.server.restart)


async def _back(agent: FakeAgent) -> None:
    await agent.vanish()
    await agent.connect()


def _started(made: Fleet, run_id: str) -> int:
    return sum(entry.type == "step.started" for entry in Journal(made.server.data_dir).of_run(run_id))


async def test_killed_before_the_start_was_acknowledged(lone: Fleet) -> None:
    """The work is offered again with the same id, since it has not started."""
    agent, task, run_id = await _offered(lone, "before")
    await _bounce(lone)
    await _back(agent)
    again = await agent.task()
    assert again.step_run_id == task.step_run_id
    await agent.ack(again)
    await agent.finish(again)
    await eventually(lambda: lone.show(run_id)["status"] == "succeeded", 60)
    assert (_started(lone, run_id), len(lone.attempts(run_id))) == (1, 1)
    await agent.vanish()


async def test_killed_while_the_start_is_being_acknowledged(lone: Fleet) -> None:
    """The response or the commit may be lost: a retry gets the same response, and the step starts once."""
    for number in range(2 * ROUNDS):
        agent, task, run_id = await _offered(lone, f"amid{number}")
        asking = asyncio.create_task(agent.report(task.step_run_id, RUNNING))
        await asyncio.sleep(0.002 * number)  # the moment of the kill is the point
        await asyncio.to_thread(lone.server.kill9)
        try:
            await asking
        except grpc.aio.AioRpcError:
            assert asking.exception() is not None  # the answer is lost, and it is asked again
        await asyncio.to_thread(lone.server.restart)
        await _back(agent)
        for _ in range(2):
            assert (await agent.report(task.step_run_id, RUNNING)).success
        for _ in range(2):
            assert (await agent.report(task.step_run_id, SUCCESS)).success
        await eventually(lambda run_id=run_id: lone.show(run_id)["status"] == "succeeded", 60)
        assert (_started(lone, run_id), len(lone.attempts(run_id))) == (1, 1)
        await agent.vanish()
    Journal(lone.server.data_dir).check()


async def test_killed_after_the_start_was_acknowledged(lone: Fleet) -> None:
    """It is never offered again; the agent's result with the old id is accepted."""
    agent, task, run_id = await _offered(lone, "after")
    assert (await agent.report(task.step_run_id, RUNNING)).success
    await _bounce(lone)
    await _back(agent)
    await agent.ack(task, ACK_OK)  # a second acknowledgement changes nothing
    assert (await agent.report(task.step_run_id, SUCCESS)).success
    await eventually(lambda: lone.show(run_id)["status"] == "succeeded", 60)
    assert agent._tasks.empty()
    assert (_started(lone, run_id), len(lone.attempts(run_id))) == (1, 1)
    await agent.vanish()


async def test_a_result_that_was_acknowledged_outlives_the_kill(lone: Fleet) -> None:
    for number in range(ROUNDS):
        agent, task, run_id = await _offered(lone, f"result{number}")
        await agent.ack(task)
        await agent.lines(task.step_run_id, ["only"])
        assert (await agent.report(task.step_run_id, SUCCESS)).success
        await _bounce(lone)  # at once after the answer
        assert lone.show(run_id)["status"] == "succeeded"
        assert lone.logs(run_id) == ["only"]
        await agent.vanish()
