"""Agents and what is offered to them on both databases: presence, draining, offers, the server's restart."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from pilothouse.access.model import SYSTEM
from pilothouse.engine.model import MAX_UNSTARTED
from pilothouse.fleet.model import AgentStatus, LeaseState, TaskStatus, Verdict
from pilothouse.secrets import store as secret_store
from pilothouse.storage import Tx
from pilothouse.wire import entries
from support.kernel import LEASE, OFFLINE_AFTER, PROJECT, Kernel

FAILED, SUCCEEDED = TaskStatus.FAILED, TaskStatus.SUCCEEDED
ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
STEP_RERUN = "jobs: [{name: j, steps: [{name: a, uses: dummy, onLost: rerun}]}]"
TWO = "jobs: [{name: j, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
TWO_RERUN = "jobs: [{name: j, onLost: rerun, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"


def presence(kernel: Kernel, agent_id: str) -> list[tuple[str, str]]:
    """An agent's comings and goings: (what, before)."""
    found = kernel.entries(entries.agent_stream(agent_id))
    return [(e.type.removeprefix("agent."), e.body["previous"]) for e in found if "previous" in e.body]


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


async def test_a_heartbeat_without_a_connection_is_no_way_to_get_work(kernel: Kernel) -> None:
    """It missed heartbeats, lost its connection, and sends unary heartbeats now: no work can be sent."""
    agent = await kernel.agent("a1")
    await kernel.tick(OFFLINE_AFTER + 5)
    await kernel.disconnect(agent)
    await kernel.holds(agent)
    run_id = await kernel.run(ONE)
    assert kernel.step(run_id, "a")["reason"] != "offered to agent a1"
    agent = await kernel.connect("a1")
    assert agent.names == ["a"]


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


async def test_a_lease_is_offered_then_started_then_released(kernel: Kernel) -> None:
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
    """The agent repeatedly reports its held work without this task: the dispatch did not reach it."""
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
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    )
    await kernel.disconnect(agent)
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "TOKEN"))
    agent = await kernel.connect("a1")
    await kernel.beat(5 * LEASE, agent)
    assert kernel.view(run_id)["status"] == "failed"


async def test_an_undecryptable_secret_affects_one_run_only(kernel: Kernel) -> None:
    """Encrypted with another key, e.g. after a partial restore: one run fails, not the scheduler."""

    def spoil(tx: Tx) -> None:
        sealed = {"value": b"\x01" + bytes(60), "created_by": "", "created_at": 1, "updated_at": 1}
        tx.conn.execute(
            insert(secret_store.secrets).values(
                id="s1", owner=PROJECT, project=PROJECT, name="TOKEN", **sealed
            )
        )

    await kernel.write(spoil)
    agent = await kernel.agent("a1", slots=2)
    spec = "jobs: [{name: j, steps: [{name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
    broken = await kernel.run(spec, pump=False)
    await kernel.run(ONE)
    assert agent.names == ["a"]
    assert kernel.view(broken)["status"] == "failed"


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


async def test_agents_that_do_not_reconnect_after_a_restart_are_lost(kernel: Kernel) -> None:
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
    spec = (
        "jobs: [{name: j, timeout: 10m, steps: [{name: a, uses: dummy, retry: {maxAttempts: 2, delay: 2m}}]}]"
    )
    run_id = await kernel.run(spec)
    await kernel.do(agent, FAILED)
    again = await kernel.restart()
    agent = await again.connect("a1")
    await again.beat(119, agent)
    assert agent.tasks == []
    await again.beat(1, agent)
    assert agent.names == ["a"]
    await again.ack(agent)
    await again.beat(480, agent)
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
        broken.setattr(kernel.fleet, "wake_after", breaks)  # the last thing that a report does
        with pytest.raises(OSError, match="in the middle"):
            await kernel.report(agent)
    assert kernel.step(run_id, "a")["status"] == "running"
    assert await kernel.report(agent) is Verdict.ACCEPTED
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert len(kernel.told(run_id, entries.STEP_QUEUED)) == 2
