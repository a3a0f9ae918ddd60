"""Paused runs on both databases: no steps start, running ones continue, timeouts are suspended."""

from __future__ import annotations

import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.engine.errors import RunOver, RunPaused
from pilothouse.fleet.model import TaskStatus
from pilothouse.wire import entries
from support.kernel import Kernel
from support.principals import ADMIN

TWO = """
jobs:
  - name: j
    timeout: 100s
    steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]
  - name: k
    dependsOn: [j]
    steps: [{name: c, uses: dummy}]
"""


GATED = """
jobs:
  - name: j
    timeout: 100s
    steps: [{name: a, uses: dummy}, {name: ask, uses: approval}, {name: b, uses: dummy}]
"""


async def test_what_runs_goes_on_and_nothing_is_started(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.ack(agent)
    await kernel.pause(run_id)
    view = kernel.view(run_id)
    assert (view["status"], view["reason"]) == ("running", "paused by system")
    assert view["paused_at"] is not None
    await kernel.report(agent)
    assert kernel.step(run_id, "a")["status"] == "succeeded"
    assert agent.names == ["a"]
    with pytest.raises(RunPaused):
        await kernel.pause(run_id)
    await kernel.resume(run_id)
    assert agent.names == ["a", "b"]
    assert kernel.view(run_id)["paused_at"] is None
    with pytest.raises(RunPaused):
        await kernel.resume(run_id)
    await kernel.do(agent)
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
    for use_case in (kernel.engine.pause, kernel.engine.resume):
        with pytest.raises(RunOver):
            await kernel.write(lambda tx, use=use_case: use(tx, SYSTEM, run_id))
    assert len(kernel.told(run_id, entries.RUN_PAUSED)) == len(kernel.told(run_id, entries.RUN_RESUMED)) == 1


async def test_what_waits_for_an_agent_is_not_handed_out(kernel: Kernel) -> None:
    run_id = await kernel.run(TWO)
    await kernel.pause(run_id)
    agent = await kernel.agent("a1")
    assert agent.names == []
    other = await kernel.run("jobs: [{name: j, steps: [{name: other, uses: dummy}]}]")
    assert agent.names == ["other"], "its slot is free for others"
    await kernel.do(agent)
    assert kernel.view(other)["status"] == "succeeded"
    kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    assert agent.names == []
    await kernel.resume(run_id)
    assert agent.names == ["a"]


async def test_the_timeout_of_a_job_stands_still(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.ack(agent)
    await kernel.beat(60, agent)
    await kernel.pause(run_id)
    await kernel.beat(1000, agent)
    await kernel.resume(run_id)
    await kernel.beat(30, agent)
    assert agent.cancelled == []
    await kernel.beat(20, agent)
    assert len(agent.cancelled) == 1


async def test_a_job_that_begins_in_a_pause_has_its_whole_time_after_it(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.pause(run_id)
    await kernel.ack(agent)  # it was offered before
    await kernel.beat(1000, agent)
    await kernel.resume(run_id)
    await kernel.beat(90, agent)
    assert agent.cancelled == []
    await kernel.beat(20, agent)
    assert len(agent.cancelled) == 1


async def test_a_gate_may_be_settled_in_a_pause(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(GATED)
    await kernel.do(agent)
    await kernel.beat(200, agent)
    await kernel.pause(run_id)
    await kernel.beat(200, agent)
    await kernel.decide(run_id, "ask", by=ADMIN)
    await kernel.beat(200, agent)
    assert agent.names == ["a"]
    await kernel.resume(run_id)
    assert agent.names == ["a", "b"]
    await kernel.ack(agent)
    await kernel.beat(90, agent)
    assert agent.cancelled == []
    await kernel.beat(20, agent)
    assert len(agent.cancelled) == 1


async def test_a_cancel_ends_a_pause(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.ack(agent)
    await kernel.pause(run_id)
    await kernel.cancel(run_id)
    assert kernel.view(run_id)["reason"] == "cancelling"
    await kernel.report(agent, TaskStatus.CANCELLED)
    assert kernel.view(run_id)["status"] == "cancelled"
