"""Lost work on both databases: leases that are renewed or run out, and what becomes of the step and its files."""

from __future__ import annotations

import pytest

from pilothouse.engine.model import LOST
from pilothouse.fleet.model import TaskStatus, Verdict
from pilothouse.fleet.silence import SilenceMonitor
from pilothouse.storage import StorageUnavailable, Tx
from pilothouse.wire import entries
from support.kernel import LEASE, Kernel, RecorderChannel

FAILED, SUCCEEDED = TaskStatus.FAILED, TaskStatus.SUCCEEDED
ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
STEP_RERUN = "jobs: [{name: j, steps: [{name: a, uses: dummy, onLost: rerun}]}]"
TWO = "jobs: [{name: j, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
TWO_RERUN = "jobs: [{name: j, onLost: rerun, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"


async def vanish(kernel: Kernel, channel: RecorderChannel, *others: RecorderChannel) -> None:
    """The connection breaks and the agent is disconnected for longer than a lease; the others stay online."""
    await kernel.disconnect(channel)
    await kernel.beat(LEASE + 1, *others)


# -- renewing and losing ----------------------------------------------------------------------------------


async def test_heartbeats_renew_what_an_agent_holds(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    await kernel.beat(10 * LEASE, agent)
    assert await kernel.report(agent) is Verdict.ACCEPTED
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_lost_work_fails_honestly(kernel: Kernel) -> None:
    agent, other = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    await kernel.disconnect(agent)
    await kernel.beat(LEASE - 1, other)
    assert kernel.view(run_id)["status"] == "running", "a lease lasts its time, offline or not"
    await kernel.beat(2, other)
    assert kernel.view(run_id)["status"] == "failed"
    [over] = kernel.told(run_id, entries.ATTEMPT_COMPLETED)
    assert over["status"] == "failed"
    assert over["error"].startswith(LOST)
    assert other.tasks == []


@pytest.mark.parametrize("status", [SUCCEEDED, FAILED])
async def test_a_late_result_of_a_lost_attempt_is_refused(kernel: Kernel, status: TaskStatus) -> None:
    """Not even as one that was taken before, when it happens to be a failure, too."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    await vanish(kernel, agent)
    agent, task_id = await kernel.connect("a1"), agent.last.id
    assert await kernel.report(agent, status, task_id) is Verdict.STALE
    assert kernel.view(run_id)["status"] == "failed"
    assert kernel.attempt(task_id).error.startswith(LOST)


async def test_lost_work_is_done_again_where_its_spec_allows(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(STEP_RERUN)
    await kernel.ack(a1)
    await vanish(kernel, a1, a2)
    assert a2.names == ["a"]
    assert a2.last.id != a1.last.id
    assert a2.last.fresh_workspace
    assert a2.last.attempt == 2
    back = await kernel.connect("a1")
    assert await kernel.report(back, SUCCEEDED, a1.last.id) is Verdict.STALE
    await kernel.do(a2)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert [t["status"] for t in kernel.step(run_id, "a")["attempts"]] == ["failed", "succeeded"]


async def test_lost_work_is_done_again_twice_at_most(kernel: Kernel) -> None:
    run_id = await kernel.run(STEP_RERUN)
    for number in range(3):
        agent = await kernel.agent(f"a{number}")
        await kernel.ack(agent)
        await vanish(kernel, agent)
    assert kernel.view(run_id)["status"] == "failed"
    assert len(kernel.step(run_id, "a")["attempts"]) == 3


async def test_a_job_is_done_again_from_its_first_step(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(TWO_RERUN)
    await kernel.do(a1)
    await kernel.ack(a1)
    await vanish(kernel, a1, a2)
    assert a2.names == ["a"]
    assert a2.last.fresh_workspace
    assert a2.last.workspace != a1.last.workspace
    await kernel.do(a2)
    await kernel.do(a2)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_work_that_never_started_goes_to_another(kernel: Kernel) -> None:
    a1 = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    a2 = await kernel.agent("a2")
    await vanish(kernel, a1, a2)
    assert a2.names == ["a"]
    assert await kernel.ack(a1) is Verdict.STALE
    await kernel.do(a2)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_progress_of_a_lost_attempt_does_not_act_on_the_step(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(STEP_RERUN)
    await kernel.ack(a1)
    await kernel.tell("a1", 1, a1.last.id, "step.progress", {"percent": 40})
    await vanish(kernel, a1, a2)
    await kernel.ack(a2)
    await kernel.tell("a2", 1, a2.last.id, "step.progress", {"percent": 10})
    await kernel.connect("a1")
    await kernel.tell("a1", 2, a1.last.id, "step.progress", {"percent": 90})
    await kernel.tell("a1", 3, a1.last.id, "step.output", {"name": "late", "value": 1})
    assert kernel.step(run_id, "a")["progress"] == 10
    assert kernel.step(run_id, "a")["outputs"] == {}
    shown = [(told["attempt"], told["percent"]) for told in kernel.told(run_id, entries.STEP_PROGRESSED)]
    assert shown == [(1, 40), (2, 10)], "the stream does not jump to what no longer counts"


async def test_what_an_agent_no_longer_runs_is_lost(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=2)
    kept, dropped = await kernel.run(ONE), await kernel.run(ONE)
    for task in agent.tasks:
        await kernel.ack(agent, task.id)
    first, second = (task.id for task in agent.tasks)
    await kernel.holds(agent, first, second)
    await kernel.holds(agent, first)
    assert kernel.view(dropped)["status"] == "running", "a heartbeat may have crossed the dispatch"
    await kernel.holds(agent, first)
    assert kernel.view(dropped)["status"] == "running", (
        "nor do heartbeats that come in a burst say more than one"
    )
    kernel.clock.advance(10)
    await kernel.holds(agent, first)
    assert kernel.view(dropped)["status"] == "failed"
    assert "no longer runs it" in kernel.step(dropped, "a")["reason"]
    assert kernel.view(kept)["status"] == "running"


async def test_the_first_word_of_a_connection_is_believed_at_once(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=2)
    run_id = await kernel.run(STEP_RERUN)
    await kernel.ack(agent)
    again = await kernel.connect("a1")
    await kernel.holds(again, first=True)
    assert again.names == ["a"], "it was restarted and has forgotten everything"
    assert kernel.view(run_id)["status"] == "running"


async def test_a_missing_task_that_is_there_again_was_not_missing(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    for held in ([], [agent.last.id], [], [agent.last.id]):
        await kernel.holds(agent, *held)
    assert kernel.view(run_id)["status"] == "running"


# -- the job's workspace ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [TWO, TWO_RERUN])
async def test_a_workspace_is_waited_for_and_then_given_up(kernel: Kernel, spec: str) -> None:
    a1, a2 = await kernel.agent("a1", slots=2), await kernel.agent("a2")
    run_id = await kernel.run(spec)
    await kernel.ack(a1)
    await kernel.disconnect(a1)
    # The result comes over another call while the control channel is down: nothing can be handed to it now.
    assert await kernel.report(a1) is Verdict.ACCEPTED
    assert (
        kernel.step(run_id, "b")["reason"]
        == "waiting for agent a1, which holds the job's workspace and is offline"
    )
    await kernel.beat(LEASE - 5, a2)
    assert kernel.step(run_id, "b")["status"] == "queued"
    assert a2.tasks == []
    await kernel.beat(10, a2)
    if spec == TWO_RERUN:
        assert a2.names == ["a"], "the job begins again, where there is room"
        assert a2.last.fresh_workspace
    else:
        assert kernel.view(run_id)["status"] == "failed"
        assert kernel.step(run_id, "b")["reason"].startswith(
            LOST + "agent a1, which holds the job's workspace"
        )


async def test_a_workspace_whose_agent_comes_back_is_used(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(TWO)
    await kernel.do(a1)
    assert a1.names == ["a", "b"]
    await kernel.refuse(a1, "shutting down")
    await kernel.disconnect(a1)
    await kernel.beat(LEASE - 10, a2)
    a1 = await kernel.connect("a1")
    assert a2.tasks == []
    assert a1.names[-1:] == ["b"]
    assert not a1.last.fresh_workspace
    await kernel.do(a1)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_an_offer_lost_with_its_workspace_does_not_go_on_without_it(kernel: Kernel) -> None:
    """Step b never began, but what step a left for it is on a machine that is gone: b must not run in nothing."""
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(TWO)
    await kernel.do(a1)
    assert a1.names == ["a", "b"]
    await vanish(kernel, a1, a2)
    await kernel.beat(2 * LEASE, a2)
    assert a2.tasks == []
    assert kernel.view(run_id)["status"] == "failed"
    assert kernel.step(run_id, "b")["reason"].startswith(LOST)


async def test_an_agent_that_leaves_for_good_loses_its_work_once(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(STEP_RERUN)
    await kernel.ack(a1)
    await kernel.write(lambda tx: kernel.fleet.unregister(tx, "a1", "scrapped"))
    await kernel.pump()
    await kernel.tick()
    assert a2.names == ["a"], kernel.step(run_id, "a")["reason"]
    assert [t["status"] for t in kernel.step(run_id, "a")["attempts"]] == ["failed", "queued"], "lost once"
    [gone] = kernel.entries(entries.agent_stream("a1"), entries.AGENT_UNREGISTERED)
    assert gone.body["reason"] == "scrapped"


async def test_nothing_is_lost_by_an_outage_of_the_database(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats that could not be stored: agents get a new lease before anything is marked lost."""
    silence = SilenceMonitor(kernel.storage, kernel.fleet, kernel.clock)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)

    def away(tx: Tx) -> None:
        raise StorageUnavailable("the disk is full")

    with pytest.raises(StorageUnavailable):
        await kernel.write(away)
    assert kernel.writer.blocked
    kernel.clock.advance(LEASE + 1)
    with monkeypatch.context() as patch:
        patch.setattr(kernel.fleet, "start_grace_period", away)
        with pytest.raises(StorageUnavailable):
            await silence.check()
    await silence.check()
    assert not kernel.writer.blocked
    assert (kernel.step(run_id, "a")["status"], kernel.known("a1").online) == ("running", True)
    await silence.check()
    assert kernel.step(run_id, "a")["status"] == "running"
    kernel.clock.advance(LEASE + 1)
    await silence.check()
    assert kernel.step(run_id, "a")["status"] == "failed", "that was its own silence"
