"""Heartbeats count from their arrival, whatever the writer does, and a flood of them costs few transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pilothouse.fleet import beats, listener
from pilothouse.fleet.beats import Beat, Beats
from pilothouse.fleet.budgets import MAX_STALE, Budgets
from pilothouse.fleet.listener import Listener
from pilothouse.fleet.model import Condition
from pilothouse.fleet.silence import SilenceMonitor
from pilothouse.wire import entries
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from support.journals import held_up
from support.kernel import LEASE, OFFLINE_AFTER, Kernel, RecorderChannel
from support.waiting import eventually

ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"


class Line:
    """What an agent says on its connection, and the listener that hears it."""

    def __init__(self, kernel: Kernel, channel: RecorderChannel, slots: int = 1) -> None:
        self.said: asyncio.Queue[pb.ConnectRequest | None] = asyncio.Queue()
        self.read = 0
        self.listener = Listener(kernel.fleet, kernel.storage, Budgets(kernel.clock), channel, slots)
        self.task = asyncio.create_task(self.listener.listen(self._requests()))

    async def _requests(self) -> AsyncIterator[pb.ConnectRequest]:
        while (request := await self.said.get()) is not None:
            self.read += 1
            yield request

    def beat(self, *holds: str, **fields: Any) -> None:
        """A heartbeat; with its list of tasks, if it holds any."""
        beat = pb.ConnectHeartbeat(running_step_run_ids=holds, reports_running=bool(holds), **fields)
        self.said.put_nowait(pb.ConnectRequest(heartbeat=beat))

    def ack(self, task_id: str) -> None:
        """An acknowledgement, perhaps once more."""
        self.said.put_nowait(pb.ConnectRequest(task_ack=pb.TaskAck(command_id=task_id, status=1)))

    async def end(self) -> None:
        """The agent closes its side."""
        self.said.put_nowait(None)
        await self.task


async def settled() -> None:
    """Whatever can go on without the writer has done so."""
    for _ in range(50):
        await asyncio.sleep(0)


def monitor(kernel: Kernel) -> SilenceMonitor:
    """One that does not notice that it had to wait, so that no grace hides what is tested."""
    return SilenceMonitor(kernel.storage, kernel.fleet, kernel.clock, lambda: 0.0)


@pytest.mark.parametrize("offered", [False, True])
async def test_who_is_not_read_is_not_silent(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, offered: bool
) -> None:
    """Its heartbeats wait in the socket behind messages that wait for the writer."""
    monkeypatch.setattr(listener, "MAX_UNDER_WAY", 2)
    agent, silence = await kernel.agent("a1"), monitor(kernel)
    run_id = await kernel.run(ONE)
    if not offered:
        await kernel.ack(agent)
    line = Line(kernel, agent)
    line.beat()
    await eventually(lambda: line.read == 1)
    async with held_up(kernel.writer):
        for _ in range(6):
            line.ack("nothing" if offered else agent.last.id)
        line.ack(agent.last.id)
        line.beat(agent.last.id)
        await settled()
        assert line.read < 9
        kernel.clock.advance(2 * LEASE)
        checking = asyncio.create_task(silence.check())
        await settled()
    await checking
    assert kernel.known("a1").online
    await eventually(lambda: line.read == 9)
    await line.end()
    await silence.check()
    assert kernel.known("a1").online
    assert kernel.view(run_id)["status"] == "running"
    kernel.clock.advance(LEASE + 1)
    await silence.check()
    assert not kernel.known("a1").online, "that was its own silence"
    assert kernel.view(run_id)["status"] == "failed"


async def test_what_has_arrived_counts_before_it_is_written(kernel: Kernel) -> None:
    """A heartbeat is under way, the next ones wait for it: the check is queued between them."""
    agent, silence = await kernel.agent("a1"), monitor(kernel)
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    line = Line(kernel, agent)
    async with held_up(kernel.writer):
        line.beat(agent.last.id)
        await settled()
        for _ in range(5):
            kernel.clock.advance(OFFLINE_AFTER)
            line.beat(agent.last.id)
            await settled()
        checking = asyncio.create_task(silence.check())
        await settled()
        # The heartbeat under way is processed at its own time, long ago.
        kernel.clock.advance(-5 * OFFLINE_AFTER)
    await checking
    kernel.clock.advance(5 * OFFLINE_AFTER)
    assert kernel.known("a1").online
    assert kernel.view(run_id)["status"] == "running"
    await line.end()


async def test_who_is_silent_is_so_though_others_are_heard(kernel: Kernel) -> None:
    agent, other = await kernel.agent("a1", only="a1"), await kernel.agent("a2", only="a2")
    run_id = await kernel.run(ONE)
    [holder] = [channel for channel in (agent, other) if channel.tasks]
    await kernel.ack(holder)
    line = Line(kernel, other if holder is agent else agent)
    kernel.clock.advance(LEASE + 1)
    line.beat()
    await line.end()
    await monitor(kernel).check()
    assert not kernel.known(holder.agent_id).online
    assert kernel.known("a2" if holder is agent else "a1").online
    assert kernel.view(run_id)["status"] == "failed"


# -- floods ---------------------------------------------------------------------------------------------


async def test_many_heartbeats_cost_few_transactions(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reports another problem; the last one counts."""
    monkeypatch.setattr(listener, "MAX_GAP", 0.02)
    agent = await kernel.agent("a1")
    written: list[Any] = []
    submit = kernel.writer.submit
    monkeypatch.setattr(kernel.writer, "submit", lambda use_case: (written.append(1), submit(use_case))[1])
    line = Line(kernel, agent)
    async with held_up(kernel.writer):
        written.clear()
        for n in range(5000):
            line.beat(problems=[f"problem {n}"])
        await eventually(lambda: line.read == 5000)
        assert len(written) == 1
    await eventually(lambda: kernel.known("a1").problems == ("problem 4999",))
    assert len(written) <= 5
    updates = kernel.entries(entries.agent_stream("a1"), entries.AGENT_UPDATED)
    assert len(updates) <= 3
    await line.end()


async def test_a_heartbeat_before_another_message_is_written_before_it(kernel: Kernel) -> None:
    """It lists what the agent holds; with a later list in its place, what then ends would count as lost."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    task = agent.last.id
    line = Line(kernel, agent)
    line.beat(task)
    for _ in range(20):
        line.beat(task)
        line.ack(task)
        line.beat(task)
    line.beat(task, problems=["the last"])
    done = pb.TaskStatus(step_run_id=task, status=4)
    line.said.put_nowait(pb.ConnectRequest(task_status=done))
    await line.end()
    assert agent.cancelled == []  # as it would be for a list that is older than the result
    assert kernel.known("a1").problems == ("the last",)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert len(kernel.step(run_id, "a")["attempts"]) == 1


async def test_reports_without_effect_are_bounded(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    line = Line(kernel, agent)
    for n in range(3 * MAX_STALE):
        line.ack(f"never-{n}")
    with pytest.raises(Exception, match="Too many requests"):
        await line.end()
    assert line.read <= MAX_STALE + 2 * listener.MAX_UNDER_WAY + 2


async def test_the_first_heartbeat_stays_the_first(kernel: Kernel) -> None:
    """What it says is believed at once, also if a later one takes its place before it is written."""
    told: list[Beat] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(beat: Beat) -> asyncio.Future[None]:
        told.append(beat)
        return done

    some = Beats(write, 0.01)
    some.offer(Beat(frozenset({"a"}), Condition(), first=True))
    some.offer(Beat(frozenset({"b"}), Condition()))
    some.offer(Beat(frozenset({"c"}), Condition()))
    assert [(beat.holds, beat.first) for beat in told] == [({"a"}, True)]
    done.set_result(None)
    await eventually(lambda: len(told) == 2)
    assert (told[1].holds, told[1].first) == ({"c"}, False)
    some.close()
    some.offer(Beat(frozenset({"d"}), Condition()))
    assert beats.MAX_GAP <= 1
