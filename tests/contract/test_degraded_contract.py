"""A degraded agent: effect on its slots, and where it is shown."""

from __future__ import annotations

import pytest

from pilothouse.fleet.http import agent_view
from pilothouse.fleet.model import MAX_BLOCKED, MAX_PROBLEM, MAX_PROBLEMS, Condition
from pilothouse.wire import entries
from support.kernel import Kernel, RecorderChannel

SPEC = """
jobs:
- {name: one, steps: [{name: a, uses: dummy}]}
- {name: two, steps: [{name: b, uses: dummy}]}
- {name: three, steps: [{name: c, uses: dummy}]}
"""
LEFT = "step build/compile left processes that cannot be killed: 4711 (dd, waits in the kernel)"


async def say(kernel: Kernel, agent: RecorderChannel, blocked: int, *problems: str) -> None:
    """A heartbeat as `Connect` takes it in."""
    condition = Condition.reported(blocked, problems)
    holds = frozenset(task.id for task in agent.tasks)
    await kernel.write(lambda tx: kernel.fleet.heartbeat(tx, agent.agent_id, holds, condition=condition))
    await kernel.pump()


async def test_a_blocked_slot_gets_no_work_until_it_is_free(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=3)
    await say(kernel, agent, 2, LEFT)
    run_id = await kernel.run(SPEC)
    assert agent.names == ["a"]
    assert kernel.step(run_id, "b")["reason"] == "agent a1 is busy"
    await kernel.do(agent)
    assert agent.names == ["a", "b"], "the one slot that is left works on"
    await say(kernel, agent, 1, LEFT)
    assert agent.names == ["a", "b", "c"]


async def test_all_slots_blocked(kernel: Kernel) -> None:
    degraded, well = await kernel.agent("a1", slots=2), await kernel.agent("a2", slots=1)
    await say(kernel, degraded, 5, LEFT)
    await kernel.run(SPEC)
    assert (degraded.names, well.names) == ([], ["a"])
    await say(kernel, degraded, 0)
    assert degraded.names == ["b", "c"]


async def test_the_less_degraded_of_two_gets_the_work(kernel: Kernel) -> None:
    degraded, well = await kernel.agent("a1", slots=4), await kernel.agent("a2", slots=4)
    await say(kernel, degraded, 1, LEFT)
    await kernel.run("jobs: [{name: one, steps: [{name: a, uses: dummy}]}]")
    assert (degraded.names, well.names) == ([], ["a"])


async def test_what_people_see(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=3)
    await say(kernel, agent, 1, LEFT, "another")
    shown = agent_view(kernel.known("a1"), 0, kernel.clock.now)
    assert (shown["degraded"], shown["capacity"]["blocked"]) == ([LEFT, "another"], 1)
    assert shown["status"] == "online"
    stream = entries.agent_stream("a1")
    told = [entry.body for entry in kernel.entries(stream, entries.AGENT_UPDATED)]
    assert (told[-1]["degraded"], told[-1]["blocked"]) == ([LEFT, "another"], 1)
    assert told[-1]["reason"] == f"{LEFT}; another"
    before = len(told)
    await say(kernel, agent, 1, LEFT, "another")
    assert len(kernel.entries(stream, entries.AGENT_UPDATED)) == before, "nothing has changed"
    await say(kernel, agent, 0)
    shown = agent_view(kernel.known("a1"), 0, kernel.clock.now)
    assert (shown["degraded"], shown["capacity"]["blocked"]) == ([], 0)
    assert len(kernel.entries(stream, entries.AGENT_UPDATED)) == before + 1


async def test_it_survives_a_reconnect_and_a_restart_of_the_server(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=1)
    await say(kernel, agent, 1, LEFT)
    await kernel.disconnect(agent)
    following = await kernel.restart()
    again = await following.connect("a1")
    await following.run(SPEC)
    assert (again.names, following.known("a1").problems) == ([], (LEFT,))


async def test_an_agent_that_does_not_report_health_is_healthy(kernel: Kernel) -> None:
    """As a third party's may: `Heartbeat` has no such fields, and leaves what is known."""
    agent = await kernel.agent("a1", slots=1)
    await say(kernel, agent, 1, LEFT)
    await kernel.write(lambda tx: kernel.fleet.heartbeat(tx, "a1"))
    assert kernel.known("a1").blocked == 1


@pytest.mark.parametrize(("said", "kept"), [(-5, 0), (3, 3), (2_000_000_000, MAX_BLOCKED)])
def test_what_an_agent_says_is_bounded(said: int, kept: int) -> None:
    condition = Condition.reported(said, ["x\0" * MAX_PROBLEM] * 1000).cut()
    assert condition.blocked == kept
    assert len(condition.problems) == MAX_PROBLEMS
    assert {len(problem) for problem in condition.problems} == {MAX_PROBLEM}
    assert "\0" not in condition.problems[0]
