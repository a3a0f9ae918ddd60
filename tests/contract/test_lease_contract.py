"""Agents and their leases on both databases: granted, acknowledged, renewed, expired; lost work and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert
from support.kernel import LEASE, OFFLINE_AFTER, PROJECT, Kernel, RecorderChannel

from pilothouse.engine import store
from pilothouse.engine.model import LOST, MAX_UNSTARTED
from pilothouse.fleet.model import AgentStatus, LeaseState, TaskStatus, Verdict
from pilothouse.identity.model import SYSTEM
from pilothouse.storage import Tx
from pilothouse.wire import entries

FAILED, SUCCEEDED = TaskStatus.FAILED, TaskStatus.SUCCEEDED
ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
STEP_RERUN = "jobs: [{name: j, steps: [{name: a, uses: dummy, onLost: rerun}]}]"
TWO = "jobs: [{name: j, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
TWO_RERUN = "jobs: [{name: j, onLost: rerun, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"


def presence(kernel: Kernel, agent_id: str) -> list[tuple[str, str]]:
    """An agent's comings and goings: (what, before)."""
    found = kernel.entries(entries.agent_stream(agent_id))
    return [(e.type.removeprefix("agent."), e.body["previous"]) for e in found if "previous" in e.body]


async def vanish(kernel: Kernel, channel: RecorderChannel, *others: RecorderChannel) -> None:
    """The connection breaks and the agent stays away for longer than a lease; the others live."""
    await kernel.disconnect(channel)
    await kernel.beat(LEASE + 1, *others)


# -- presence ---------------------------------------------------------------------------------------------


async def test_agents_come_and_go(kernel: Kernel) -> None:
    first = await kernel.agent("a1", os="linux")
    assert kernel.known("a1").status is AgentStatus.ONLINE
    await kernel.disconnect(first)
    assert kernel.known("a1").status is AgentStatus.OFFLINE
    second = await kernel.connect("a1")
    assert presence(kernel, "a1") == [("online", "offline"), ("offline", "online"), ("online", "offline")]
    [gone] = kernel.entries(entries.agent_stream("a1"), entries.AGENT_OFFLINE)
    assert gone.body["reason"] == "the connection broke"
    assert gone.scope == "fleet"
    [registered] = kernel.entries(entries.agent_stream("a1"), entries.AGENT_REGISTERED)
    assert registered.body["labels"] == {"os": "linux"}
    assert second.closed_for == ""


async def test_a_newer_connection_replaces_the_older(kernel: Kernel) -> None:
    old = await kernel.agent("a1")
    new = await kernel.connect("a1")
    assert old.closed_for == "replaced"
    await kernel.disconnect(old)
    assert kernel.known("a1").status is AgentStatus.ONLINE, "the end of a replaced one makes nobody offline"
    assert presence(kernel, "a1") == [("online", "offline")]
    await kernel.run(ONE)
    assert (old.names, new.names) == ([], ["a"])


async def test_silence_is_offline_and_a_word_is_online(kernel: Kernel) -> None:
    silent, alive = await kernel.agent("a1"), await kernel.agent("a2")
    await kernel.beat(OFFLINE_AFTER, alive)
    assert kernel.known("a1").online
    await kernel.beat(1, alive)
    assert not kernel.known("a1").online
    assert kernel.known("a2").online
    [gone] = kernel.entries(entries.agent_stream("a1"), entries.AGENT_OFFLINE)
    assert gone.body["reason"] == "no heartbeat for 30 s"
    await kernel.holds(silent)
    assert kernel.known("a1").status is AgentStatus.ONLINE
    assert presence(kernel, "a1")[-1] == ("online", "offline")


async def test_an_agent_that_fell_silent_gets_work_again_when_it_speaks(kernel: Kernel) -> None:
    """A machine that slept for a minute: its connection still stands, it beats, and there is work for it."""
    agent = await kernel.agent("a1")
    await kernel.tick(OFFLINE_AFTER + 5)
    assert not kernel.known("a1").online
    if agent.closed_for:  # as good an answer: then it has to connect anew
        agent = await kernel.connect("a1")
    await kernel.holds(agent)
    run_id = await kernel.run(ONE)
    assert agent.names == ["a"], kernel.step(run_id, "a")["reason"]


async def test_draining_gives_no_new_work_and_survives_reconnects(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=3)
    await kernel.run(TWO)
    await kernel.write(lambda tx: kernel.fleet.drain(tx, SYSTEM, "a1", True))
    waiting = await kernel.run(ONE)
    assert kernel.step(waiting, "a")["reason"] == "every matching agent is draining (a1)"
    await kernel.do(agent)
    assert agent.names == ["a", "b"], "it finishes the job whose files it has"
    await kernel.do(agent)
    await kernel.disconnect(agent)
    agent = await kernel.connect("a1")
    await kernel.holds(agent)
    assert kernel.known("a1").status is AgentStatus.DRAINING
    assert agent.tasks == []
    await kernel.write(lambda tx: kernel.fleet.drain(tx, SYSTEM, "a1", False))
    await kernel.pump()
    assert agent.names == ["a"]
    told = presence(kernel, "a1")
    assert told[1] == ("draining", "online")
    assert told[-1] == ("online", "draining")


# -- offers -----------------------------------------------------------------------------------------------


async def test_a_lease_is_offered_then_started_then_gone(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await kernel.run(ONE)
    lease = kernel.lease(agent.last.id)
    assert lease is not None
    assert (lease.state, lease.agent_id, lease.kind) == (LeaseState.OFFERED, "a1", "step")
    assert lease.expires_at == kernel.clock.now + LEASE * 1000
    await kernel.ack(agent)
    lease = kernel.lease(agent.last.id)
    assert lease is not None
    assert lease.state is LeaseState.STARTED
    await kernel.report(agent)
    assert kernel.lease(agent.last.id) is None


async def test_an_offer_is_sent_again_after_a_reconnect(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await kernel.run(ONE)
    first = agent.last
    await kernel.disconnect(agent)
    agent = await kernel.connect("a1")
    assert [task.id for task in agent.tasks] == [first.id], "the same work under the same id"
    await kernel.ack(agent)
    agent = await kernel.connect("a1")
    assert agent.tasks == [], "what has started is not sent again"
    assert agent.cancelled == []
    assert await kernel.report(agent, SUCCEEDED, first.id) is Verdict.ACCEPTED


async def test_a_cancellation_is_sent_again_after_a_reconnect(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    await kernel.disconnect(agent)
    await kernel.cancel(run_id, "enough")
    agent, task_id = await kernel.connect("a1"), agent.last.id
    assert agent.cancelled == [(task_id, "enough")]
    assert kernel.view(run_id)["status"] == "running"


async def test_refused_work_goes_back_to_the_queue_but_not_for_ever(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    first = agent.last.id
    assert await kernel.refuse(agent, "no room") is Verdict.ACCEPTED
    assert agent.last.id != first, "handing the work out again makes a new id"
    assert await kernel.ack(agent, first) is Verdict.STALE
    while kernel.view(run_id)["status"] == "running" and len(agent.tasks) < 50:
        await kernel.refuse(agent, "no room")
    assert len(agent.tasks) == MAX_UNSTARTED + 1
    assert kernel.step(run_id, "a")["reason"] == "lost: agent a1 refused it: no room"


async def test_an_offer_that_is_never_taken_up_goes_back(kernel: Kernel) -> None:
    """The agent lives and says what it holds, again and again without this: the dispatch never reached it."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    first = agent.last.id
    for _ in range(4 * LEASE // 10):
        kernel.clock.advance(10)
        await kernel.holds(agent)
        await kernel.tick(0)
    assert len(agent.tasks) > 1, "offered once and then forgotten, for as long as the agent lives"
    assert agent.last.id != first or kernel.lease(first) is not None
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_an_offer_that_can_no_longer_be_made_does_not_wait_for_ever(kernel: Kernel) -> None:
    """The secret was deleted between the offer and the reconnect: the run fails, it does not hang."""
    await kernel.secret("TOKEN", "hunter2hunter2")
    agent = await kernel.agent("a1")
    run_id = await kernel.run("jobs: [{name: j, steps: [{name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]")
    await kernel.disconnect(agent)
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "TOKEN"))
    agent = await kernel.connect("a1")
    await kernel.beat(5 * LEASE, agent)
    assert kernel.view(run_id)["status"] == "failed"


async def test_one_secret_that_cannot_be_opened_stops_nobody_else(kernel: Kernel) -> None:
    """Sealed under another key, say after the data directory was half restored: one run fails, not the scheduler."""

    def spoil(tx: Tx) -> None:
        sealed = {"value": b"\x01" + bytes(60), "created_by": "", "created_at": 1, "updated_at": 1}
        tx.conn.execute(insert(store.secrets).values(project=PROJECT, name="TOKEN", **sealed))

    await kernel.write(spoil)
    agent = await kernel.agent("a1", slots=2)
    spec = "jobs: [{name: j, steps: [{name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    broken = await kernel.run(spec, pump=False)
    await kernel.run(ONE)
    assert agent.names == ["a"]
    assert kernel.view(broken)["status"] == "failed"


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
    await kernel.write(lambda tx: kernel.fleet.drain(tx, SYSTEM, "a1", False))
    done, _ = a1.last.id, await kernel.disconnect(a1)
    back = await kernel.connect("a1")
    await kernel.fleet.detach(back, "the connection broke")
    # The result comes over another call while the control channel is down: nothing can be handed to it now.
    assert await kernel.report(back, SUCCEEDED, done) is Verdict.ACCEPTED
    assert kernel.step(run_id, "b")["reason"] == "waiting for agent a1, which holds the job's workspace and is offline"
    await kernel.beat(LEASE - 5, a2)
    assert kernel.step(run_id, "b")["status"] == "queued"
    assert a2.tasks == []
    await kernel.beat(10, a2)
    if spec == TWO_RERUN:
        assert a2.names == ["a"], "the job begins again, where there is room"
        assert a2.last.fresh_workspace
    else:
        assert kernel.view(run_id)["status"] == "failed"
        assert kernel.step(run_id, "b")["reason"].startswith(LOST + "agent a1, which holds the job's workspace")


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


# -- the server's restart ---------------------------------------------------------------------------------


async def test_a_restart_of_the_server_fails_nothing(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=2)
    started, offered = await kernel.run(ONE), await kernel.run(TWO)
    first, second = (task.id for task in agent.tasks)
    await kernel.ack(agent, first)
    kernel.clock.advance(10 * LEASE)  # the server was away for long
    again = await kernel.restart()
    assert agent.closed_for == "going away"
    for _ in range(OFFLINE_AFTER - 1):
        await again.tick()
    assert again.known("a1").online, "a fresh grace for everyone"
    assert presence(again, "a1") == [("online", "offline")]
    agent = await again.connect("a1")
    assert [task.id for task in agent.tasks] == [second]
    await again.holds(agent, first, first=True)
    assert await again.report(agent, SUCCEEDED, first) is Verdict.ACCEPTED
    await again.do(agent)
    await again.do(agent)
    assert again.view(started)["status"] == again.view(offered)["status"] == "succeeded"


async def test_after_a_restart_who_does_not_come_back_is_lost(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    kernel.clock.advance(3 * LEASE)
    again = await kernel.restart()
    await again.tick(LEASE - 1)
    assert again.view(run_id)["status"] == "running"
    assert not again.known("a1").online
    await again.tick(2)
    assert again.view(run_id)["status"] == "failed"


async def test_no_offer_is_made_to_an_agent_that_has_not_reconnected(kernel: Kernel) -> None:
    await kernel.agent("a1")
    again = await kernel.restart()
    run_id = await again.run(ONE)
    assert again.step(run_id, "a")["status"] == "queued"
    agent = await again.connect("a1")
    assert agent.names == ["a"]


async def test_what_a_run_waits_for_survives_a_restart(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    spec = "jobs: [{name: j, timeout: 1h, steps: [{name: a, uses: dummy, retry: {maxAttempts: 2, delay: 5m}}]}]"
    run_id = await kernel.run(spec)
    await kernel.do(agent, FAILED)
    again = await kernel.restart()
    agent = await again.connect("a1")
    await again.beat(299, agent)
    assert agent.tasks == []
    await again.beat(1, agent)
    assert agent.names == ["a"]
    await again.ack(agent)
    await again.beat(3600, agent)
    assert [id for id, _ in agent.cancelled] == [agent.last.id]
    await again.report(agent, TaskStatus.CANCELLED)
    assert again.view(run_id)["jobs"][0]["status"] == "timed_out"


async def test_what_failed_half_way_is_forgotten_by_memory_as_well(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are kept in memory while they go on: a use case that is rolled back must leave no trace in them."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.ack(agent)

    def breaks(*args: Any, **more: Any) -> None:
        raise OSError("in the middle")

    with monkeypatch.context() as broken:
        broken.setattr(kernel.fleet, "_wake_after", breaks)  # the last thing that a report does
        with pytest.raises(OSError, match="in the middle"):
            await kernel.report(agent)
    assert kernel.step(run_id, "a")["status"] == "running"
    assert await kernel.report(agent) is Verdict.ACCEPTED
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert len(kernel.told(run_id, entries.STEP_QUEUED)) == 2
