"""An agent with several connections at once, one on each channel, on both databases."""

from __future__ import annotations

import pytest

from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.handlers import TaskHandler
from pilothouse.fleet.model import SESSIONS, SLOTS, AgentStatus, Lease, Task, TaskReport, Verdict, WorkKind
from pilothouse.storage import Tx
from pilothouse.wire import entries
from support.kernel import PROJECT, Kernel, RecorderChannel

ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
SESSION = WorkKind("session", SESSIONS)


class Sessions(TaskHandler):
    """A handler that writes down what became of its tasks."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def started(self, tx: Tx, lease: Lease) -> None:
        """See ``TaskHandler``."""
        self.told.append(("started", lease.id))

    def finished(self, tx: Tx, lease: Lease, report: TaskReport) -> None:
        """See ``TaskHandler``."""
        self.told.append((report.status.value, lease.id))

    def lost(self, tx: Tx, lease: Lease, reason: str) -> None:
        """See ``TaskHandler``."""
        self.told.append(("lost", lease.id))

    def cancel_reason(self, tx: Tx, lease: Lease) -> str | None:
        """See ``TaskHandler``."""
        return None


@pytest.fixture
def sessions(kernel: Kernel) -> Sessions:
    handler = Sessions()
    kernel.fleet.handle(SESSION, handler)
    return handler


async def sockets(kernel: Kernel, agent_id: str = "a1") -> RecorderChannel:
    return await kernel.connect(agent_id, "websocket", {"session"})


async def start_session(kernel: Kernel, agent_id: str = "a1") -> str:
    """A started session on the agent, as a domain would have it."""

    def use_case(tx: Tx) -> None:
        kernel.fleet.grant(tx, Task("session-1", SESSION.name, None, PROJECT), agent_id)
        assert kernel.fleet.acknowledged(tx, agent_id, "session-1") is Verdict.ACCEPTED

    await kernel.write(use_case)
    return "session-1"


async def test_one_channel_of_each_name(kernel: Kernel) -> None:
    steps = await kernel.agent("a1")
    first = await sockets(kernel)
    assert steps.closed_for == ""
    second = await sockets(kernel)
    assert (steps.closed_for, first.closed_for, second.closed_for) == ("", "replaced", "")
    await kernel.disconnect(first)
    assert kernel.known("a1").status is AgentStatus.ONLINE
    newer = await kernel.connect("a1")
    assert (steps.closed_for, second.closed_for) == ("replaced", "")
    await kernel.disconnect(steps)
    await kernel.disconnect(second)
    assert kernel.known("a1").status is AgentStatus.ONLINE
    await kernel.disconnect(newer)
    assert kernel.known("a1").status is AgentStatus.OFFLINE
    told = [e.type for e in kernel.entries(entries.agent_stream("a1")) if "previous" in e.body]
    assert told == ["agent.online", "agent.offline"], "not one word of the connections between"


async def test_work_goes_over_the_channel_that_carries_it(kernel: Kernel, sessions: Sessions) -> None:
    steps = await kernel.agent("a1", slots=2)
    socket = await sockets(kernel)
    run_id = await kernel.run(ONE)
    assert (steps.names, socket.tasks) == (["a"], [])
    await kernel.ack(steps)
    await kernel.cancel(run_id)
    assert [id for id, _ in steps.cancelled] == [steps.last.id]
    assert socket.cancelled == []


async def test_an_agent_whose_channel_for_steps_has_ended_gets_none(kernel: Kernel) -> None:
    steps = await kernel.agent("a1")
    await sockets(kernel)
    await kernel.disconnect(steps)
    run_id = await kernel.run(ONE)
    assert kernel.step(run_id, "a")["reason"] == "no online agent takes steps"
    steps = await kernel.connect("a1")
    assert steps.names == ["a"]


async def test_an_offer_is_sent_again_over_its_own_channel_only(kernel: Kernel) -> None:
    steps = await kernel.agent("a1")
    await kernel.run(ONE)
    socket = await sockets(kernel)
    assert socket.tasks == []
    again = await kernel.connect("a1")
    assert [task.id for task in again.tasks] == [steps.last.id]


async def test_what_one_channel_says_of_its_tasks_says_nothing_of_the_others(
    kernel: Kernel, sessions: Sessions
) -> None:
    steps = await kernel.agent("a1")
    await sockets(kernel)
    run_id = await kernel.run(ONE)
    await kernel.ack(steps)
    session = await start_session(kernel)
    await kernel.write(
        lambda tx: kernel.fleet.heartbeat(tx, "a1", {session}, first=True, kinds=frozenset({"session"}))
    )
    assert kernel.view(run_id)["status"] == "running"
    task = steps.last.id
    await kernel.write(lambda tx: kernel.fleet.heartbeat(tx, "a1", {task}, first=True, kinds=steps.kinds))
    assert sessions.told == [("started", session)]
    await kernel.write(
        lambda tx: kernel.fleet.heartbeat(tx, "a1", (), first=True, kinds=frozenset({"session"}))
    )
    assert sessions.told[-1] == ("lost", session)
    assert kernel.view(run_id)["status"] == "running"


async def test_each_kind_has_a_capacity_of_its_own(kernel: Kernel, sessions: Sessions) -> None:
    steps = await kernel.agent("a1", slots=1)
    await sockets(kernel)
    await start_session(kernel)
    with kernel.database.read() as conn:
        assert fleet_store.held_by_agent(conn, SESSIONS) == {"a1": 1}
        assert fleet_store.held_by_agent(conn, SLOTS) == {}
    await kernel.run(ONE)
    assert steps.names == ["a"], "a session takes no slot"
