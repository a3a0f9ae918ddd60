"""Runs that are opened again on both databases: time limits, concurrency groups, and what followers are told.

Found by test_engine_stateful.py.
"""

from __future__ import annotations

import pytest

from pilothouse.engine.control import Control
from pilothouse.engine.errors import NotRetryable
from pilothouse.engine.step_runs import StepRuns
from pilothouse.engine.streams import arcentra_status as statuses
from pilothouse.fleet.model import TaskStatus
from pilothouse.wire import entries
from support.kernel import Kernel
from support.principals import ADMIN

LIMITED = """
jobs:
  - name: j
    timeout: 100s
    queueTimeout: 40s
    steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]
"""
GROUPED = """
concurrency: {group: deploy}
jobs: [{name: j, steps: [{name: a, uses: dummy}]}]
"""


async def retry(kernel: Kernel, step_run_id: str) -> None:
    """Try a step again."""
    service = kernel.graph.service(StepRuns)
    await kernel.write(lambda tx: service.retry(tx, ADMIN, step_run_id))
    await kernel.pump()


@pytest.mark.parametrize("failing", ["a", "b"])
async def test_a_job_that_is_tried_again_has_its_time_limits_again(kernel: Kernel, failing: str) -> None:
    """Its queue timeout ends when an agent begins, and its timeout begins then."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(LIMITED)
    if failing == "b":
        await kernel.do(agent)
    await retry(kernel, await kernel.do(agent, TaskStatus.FAILED))
    await kernel.beat(30, agent)
    await kernel.ack(agent)
    await kernel.beat(90, agent)
    assert kernel.step(run_id, failing)["status"] == "running"
    await kernel.beat(20, agent)
    assert [reason for _, reason in agent.cancelled] == ["the job ran longer than its timeout of 1m40s"]


async def test_the_limit_of_a_job_that_is_tried_again_stands_still_in_a_pause(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(LIMITED + "  - {name: k, steps: [{name: c, uses: dummy}]}")
    await kernel.do(agent)
    failed = await kernel.do(agent, TaskStatus.FAILED)
    await kernel.ack(agent)  # step c
    await kernel.pause(run_id)
    await retry(kernel, failed)
    await kernel.beat(200, agent)
    await kernel.resume(run_id)
    await kernel.beat(10, agent)
    assert kernel.step(run_id, "b")["status"] == "queued"
    assert agent.cancelled == []


async def test_a_run_that_is_tried_again_holds_its_concurrency_group(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    first = await kernel.run(GROUPED)
    failed = await kernel.do(agent, TaskStatus.FAILED)
    second = await kernel.run(GROUPED)
    with pytest.raises(NotRetryable, match=f"run {second} holds concurrency group deploy"):
        await retry(kernel, failed)
    await kernel.do(agent)
    await retry(kernel, failed)
    third = await kernel.run(GROUPED)
    assert kernel.view(third)["reason"] == f"waits for run {first} of concurrency group deploy"
    await kernel.do(agent)
    await kernel.do(agent)
    assert kernel.view(first)["status"] == kernel.view(third)["status"] == "succeeded"


async def test_followers_see_that_a_run_goes_on(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(LIMITED)
    await kernel.do(agent)
    await retry(kernel, await kernel.do(agent, TaskStatus.FAILED))
    [entry] = kernel.entries(entries.run_stream(run_id), entries.RUN_REOPENED)
    assert entry.body["from_step"] == 1
    told = statuses.run_status(entry)
    assert told is not None
    assert (told.state, told.previous_status, told.completed_jobs) == (
        "running",
        statuses.RUN_NUMBERS["failed"],
        0,
    )
    await kernel.do(agent)


@pytest.mark.parametrize("what", ["delete", "cancel"])
async def test_followers_of_a_job_see_that_a_waiting_step_has_ended(kernel: Kernel, what: str) -> None:
    """While another step runs, so that nothing else is told of the job; see ``check_statuses``."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(LIMITED)
    await kernel.ack(agent)
    waiting = kernel.step(run_id, "b")["attempts"][-1]["step_run_id"]
    service, control = kernel.graph.service(StepRuns), kernel.graph.service(Control)
    if what == "delete":
        await kernel.write(lambda tx: service.delete(tx, ADMIN, waiting))
    else:
        await kernel.write(lambda tx: control.cancel_step_run(tx, ADMIN, waiting, "not this"))
    kernel.check_memory()
    [ended] = kernel.entries(entries.run_stream(run_id), entries.STEP_COMPLETED)
    told = statuses.job_status(ended)
    assert told is not None
    assert (told.state, told.total_steps, told.completed_steps) == ("running", 2, 1)
