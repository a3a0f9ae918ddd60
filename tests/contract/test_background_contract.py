"""Background steps on both databases: the slot they leave free, and how they end."""

from __future__ import annotations

import pytest

from pilothouse.fleet.model import LeaseState, TaskStatus, Verdict
from pilothouse.wire import entries
from support.kernel import LEASE, Kernel, RecorderChannel

SERVED = """
jobs:
  - name: test
    steps:
      - {name: db, uses: dummy, background: true}
      - {name: check, uses: dummy}
"""
OTHER = "jobs: [{name: other, steps: [{name: other, uses: dummy}]}]"


async def served(kernel: Kernel) -> tuple[RecorderChannel, str]:
    """An agent of one slot on which the background step has started."""
    agent = await kernel.agent("a1", slots=1)
    run_id = await kernel.run(SERVED)
    assert agent.names == ["db"]
    assert agent.last.background
    await kernel.ack(agent)
    await kernel.pump()
    return agent, run_id


async def test_a_background_step_leaves_its_slot_to_the_next(kernel: Kernel) -> None:
    agent, run_id = await served(kernel)
    assert agent.names == ["db", "check"]
    assert not agent.last.last_in_job
    assert agent.last.workspace == agent.tasks[0].workspace
    await kernel.run(OTHER)
    assert agent.names == ["db", "check"], "the one slot is taken"
    db, check = (task.id for task in agent.tasks)
    assert await kernel.ack(agent, check) is Verdict.ACCEPTED
    await kernel.report(agent, task_id=check)
    assert agent.cancelled == [(db, "stopped, since its job has ended")]
    assert agent.names == ["db", "check", "other"]
    assert kernel.view(run_id)["status"] == "running"
    assert (
        await kernel.report(agent, TaskStatus.FAILED, db, exit_code=143, error="killed") is Verdict.ACCEPTED
    )
    assert (
        await kernel.report(agent, TaskStatus.FAILED, db, exit_code=143, error="killed") is Verdict.REPEATED
    )
    step = kernel.step(run_id, "db")
    assert (step["status"], step["reason"]) == ("succeeded", "stopped, since its job has ended")
    assert step["background"]
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_an_offer_of_a_background_step_takes_a_slot(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=1)
    await kernel.run(SERVED)
    await kernel.run(OTHER)
    assert agent.names == ["db"]


async def test_its_slot_is_free_for_other_jobs_too(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=1)
    await kernel.run("jobs: [{name: j, steps: [{name: db, uses: dummy, background: true}]}]")
    await kernel.run(OTHER)
    await kernel.ack(agent)
    await kernel.pump()
    assert agent.names == ["db", "other"]


async def test_it_is_renewed_and_lost_as_any_work(kernel: Kernel) -> None:
    agent, run_id = await served(kernel)
    db = agent.tasks[0].id
    await kernel.ack(agent)
    await kernel.beat(3 * LEASE, agent)
    lease = kernel.lease(db)
    assert lease is not None
    assert lease.state is LeaseState.STARTED
    await kernel.disconnect(agent)
    await kernel.tick(LEASE + 1)
    assert kernel.view(run_id)["status"] == "failed"
    assert kernel.step(run_id, "db")["reason"].startswith("lost: ")


@pytest.mark.parametrize("restart", [False, True])
async def test_a_stopping_step_is_cancelled_again_after_a_reconnect(kernel: Kernel, restart: bool) -> None:
    agent, run_id = await served(kernel)
    db = agent.tasks[0].id
    await kernel.do(agent)
    if restart:
        kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    assert agent.cancelled == [(db, "stopped, since its job has ended")]
    await kernel.report(agent, TaskStatus.CANCELLED, db)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_a_job_that_begins_again_gives_up_what_ran_beside(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=2)
    run_id = await kernel.run(
        "jobs: [{name: j, onLost: rerun, steps: [{name: db, uses: dummy, background: true}, {name: a, uses: dummy}]}]"
    )
    await kernel.ack(agent)
    await kernel.pump()
    db, check = (task.id for task in agent.tasks)
    await kernel.ack(agent, check)
    await kernel.holds(agent, db, first=True)  # it does not know the other any more
    assert db in [id for id, _ in agent.cancelled]
    assert kernel.attempt(db).status == "cancelled"
    assert agent.names == ["db", "a", "db"]
    assert await kernel.report(agent, TaskStatus.CANCELLED, db) is Verdict.ACCEPTED
    assert kernel.lease(db) is None
    await kernel.ack(agent)
    await kernel.pump()
    await kernel.do(agent)
    await kernel.report(agent, TaskStatus.CANCELLED, agent.tasks[2].id)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert [body["round"] for body in kernel.told(run_id, entries.JOB_RESTARTED)] == [2]


async def test_a_rerun_from_the_failed_step_starts_it_again(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: make, uses: dummy}, {name: db, uses: dummy, background: true}, "
        "{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
    )
    await kernel.do(agent)
    await kernel.ack(agent)
    await kernel.pump()
    await kernel.do(agent)
    await kernel.do(agent, TaskStatus.FAILED)
    await kernel.report(agent, TaskStatus.CANCELLED, agent.tasks[1].id)
    assert kernel.view(run_id)["status"] == "failed"
    again = await kernel.rerun(run_id, from_failed=True)
    await kernel.ack(agent)
    await kernel.pump()
    await kernel.do(agent)
    assert agent.names[4:] == ["db", "b"]
    await kernel.report(agent, TaskStatus.CANCELLED, agent.tasks[4].id)
    assert kernel.view(again)["status"] == "succeeded"
