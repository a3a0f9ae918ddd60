"""Several servers on one PostgreSQL: who judges which agent, and who takes over from a server that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from pilothouse.fleet.connection_store import connections_of, servers
from pilothouse.fleet.errors import Overtaken
from pilothouse.fleet.relay import Relay
from pilothouse.fleet.servers import Servers
from pilothouse.fleet.silence import SilenceMonitor
from pilothouse.storage import Database
from support.journals import held_up
from support.kernel import LEASE, OFFLINE_AFTER, Clock, Kernel, RecorderChannel
from support.postgres import Postgres

ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
STEP = OFFLINE_AFTER / 6


@dataclass
class Replica:
    """One of the servers, and its part of the watch over all."""

    kernel: Kernel
    servers: Servers

    async def renew(self) -> None:
        await self.servers.renew()
        await self.kernel.pump()


class Replicas(list[Replica]):
    """Servers under one clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    async def live(self, seconds: float, *agents: tuple[Replica, RecorderChannel]) -> None:
        """Let time pass in which these servers renew their rows and judge, and these agents beat."""
        until = self.clock.now + seconds * 1000
        while self.clock.now < until:
            self.clock.advance(STEP)
            for replica, channel in agents:
                await replica.kernel.holds(channel, *(task.id for task in channel.tasks))
            for replica in self:
                await replica.renew()
                await replica.kernel.tick(0)

    def rows(self) -> set[str]:
        """The ids of all servers in the database."""
        with self[0].kernel.database.read() as conn:
            return set(conn.execute(select(servers.c.id)).scalars())


@pytest.fixture
async def replicas(postgres: Postgres, migrated_postgres: str, tmp_path: Path) -> AsyncIterator[Replicas]:
    name, clock = postgres.create(migrated_postgres), Clock()
    made = Replicas(clock)
    for number in range(3):
        kernel = Kernel(Database(postgres.url(name)), clock)
        await kernel.start()
        file = tmp_path / f"server-{number}"
        made.append(
            Replica(kernel, Servers(kernel.storage, kernel.fleet, "1", file, lambda: clock.now / 1000))
        )
    everyone = list(made)
    yield made
    for replica in everyone:
        await replica.kernel.stop()
        replica.kernel.database.close()
    postgres.drop(name)


pytestmark = pytest.mark.postgres


async def started(replica: Replica, agent_id: str) -> tuple[RecorderChannel, str]:
    """An agent of this server that runs a step; returns the run's id."""
    channel = await replica.kernel.agent(agent_id, only=agent_id)
    run_id = await replica.kernel.run(only(agent_id))
    await replica.kernel.ack(channel)
    return channel, run_id


def only(agent_id: str) -> str:
    selector = f"agentSelector: {{matchLabels: {{only: {agent_id}}}}}"
    return f"jobs: [{{name: j, steps: [{{name: a, uses: dummy, {selector}}}]}}]"


async def test_only_the_server_that_holds_an_agent_judges_its_silence(replicas: Replicas) -> None:
    """Its heartbeats wait there for a writer that is busy; the others know nothing of them."""
    first, *others = replicas
    agent, run_id = await started(first, "a1")
    replicas.remove(first)
    for _ in range(4):
        await first.servers.renew()
        await replicas.live(OFFLINE_AFTER / 2)
    assert first.kernel.known("a1").online
    assert first.kernel.view(run_id)["status"] == "running"
    await first.kernel.holds(agent, agent.last.id)
    await first.kernel.tick(0)
    await first.kernel.report(agent)
    assert others[0].kernel.view(run_id)["status"] == "succeeded"


async def test_agents_of_a_dead_server_get_a_full_lease(replicas: Replicas) -> None:
    first, second, _ = replicas
    agent, run_id = await started(first, "a1")
    gone = first.kernel.fleet.server_id
    replicas.remove(first)
    await replicas.live(OFFLINE_AFTER)
    assert gone in replicas.rows(), "it has had its chance until now"
    await replicas.live(STEP)
    assert gone not in replicas.rows()
    before = replicas.clock.now
    await replicas.live(LEASE - STEP)
    assert second.kernel.view(run_id)["status"] == "running"
    lost = replicas.clock.now
    while second.kernel.view(run_id)["status"] == "running" and lost - before < 2 * LEASE * 1000:
        await replicas.live(STEP)
        lost = replicas.clock.now
    assert lost - before >= LEASE * 1000
    assert second.kernel.view(run_id)["status"] == "failed"
    assert agent.tasks, "the agent never said that it was gone"
    assert len(second.kernel.told(run_id, "step.completed")) == 1, "one server has called it lost"


async def test_an_agent_goes_to_another_server_and_nothing_is_lost(replicas: Replicas) -> None:
    first, second, third = replicas
    agent, run_id = await started(first, "a1")
    task = agent.last.id
    replicas.remove(first)
    await replicas.live(OFFLINE_AFTER + LEASE / 2)
    agent = await third.kernel.connect("a1")
    await third.kernel.holds(agent, task, first=True)
    for _ in range(4):
        await replicas.live(LEASE / 2)
        await third.kernel.holds(agent, task)
    assert second.kernel.view(run_id)["status"] == "running"
    await third.kernel.report(agent, task_id=task)
    assert second.kernel.view(run_id)["status"] == "succeeded"


async def test_a_server_considered_dead_comes_back(replicas: Replicas) -> None:
    """It was stopped for a while (a laptop's lid, SIGSTOP) and finds its agents connected as before."""
    first, second, _ = replicas
    agent, run_id = await started(first, "a1")
    moved, _ = await started(first, "a2")
    replicas.remove(first)
    await replicas.live(OFFLINE_AFTER + 2 * STEP)
    assert first.kernel.fleet.server_id not in replicas.rows()
    await second.kernel.connect("a2")
    await first.renew()
    replicas.append(first)
    assert first.kernel.fleet.server_id in replicas.rows()
    assert (agent.closed_for, moved.closed_for) == ("", "replaced")
    await replicas.live(2 * LEASE, (first, agent))
    assert first.kernel.view(run_id)["status"] == "running"
    await first.kernel.report(agent)
    next_run = await second.kernel.run(only("a1"))
    await first.kernel.write(first.kernel.dispatcher.dispatch)
    assert len(agent.tasks) == 2, second.kernel.step(next_run, "a")["reason"]


async def test_who_has_watched_no_one_calls_no_server_gone(replicas: Replicas) -> None:
    """A server that was suspended restarts its lease timers and ignores the time in between."""
    first, second, _ = replicas
    await second.renew()
    replicas.clock.advance(10 * OFFLINE_AFTER)
    await second.renew()
    assert first.kernel.fleet.server_id in replicas.rows()
    replicas.clock.advance(STEP)
    await first.servers.renew()
    await second.renew()
    assert first.kernel.fleet.server_id in replicas.rows()


async def test_the_next_server_of_a_data_directory_takes_over_at_once(
    replicas: Replicas, tmp_path: Path
) -> None:
    first, second, _ = replicas
    await started(first, "a1")
    (tmp_path / "own").write_text(first.kernel.fleet.server_id + "\n")
    second.kernel.fleet.server_id = "the-next"
    await Servers(second.kernel.storage, second.kernel.fleet, "1", tmp_path / "own", lambda: 0.0).join()
    assert first.kernel.fleet.server_id not in replicas.rows()
    assert (tmp_path / "own").read_text() == "the-next\n"
    with second.kernel.database.read() as conn:
        assert connections_of(conn, "a1") == []


async def test_work_waits_for_the_server_that_holds_its_agent(replicas: Replicas) -> None:
    first, second, _ = replicas
    agent = await first.kernel.agent("a1")
    run_id = await second.kernel.run(ONE)
    assert second.kernel.step(run_id, "a")["status"] == "queued"
    assert second.kernel.lease(second.kernel.step(run_id, "a")["attempts"][0]["step_run_id"]) is None
    relay = first.kernel.graph.service(Relay)
    await relay.catch_up()
    await first.kernel.pump()
    assert agent.names == ["a"]
    await first.kernel.ack(agent)
    await second.kernel.cancel(run_id, "enough")
    assert agent.cancelled == []
    await relay.catch_up()
    await relay.catch_up()
    assert agent.cancelled == [(agent.last.id, "enough")], "told once"


async def test_a_newer_connection_on_another_server_ends_the_older(replicas: Replicas) -> None:
    first, second, _ = replicas
    older = await first.kernel.agent("a1")
    newer = await second.kernel.connect("a1")
    await first.renew()
    assert (older.closed_for, newer.closed_for) == ("replaced", "")
    await first.kernel.disconnect(older)
    assert first.kernel.known("a1").online
    await first.kernel.write(lambda tx: first.kernel.fleet.unregister(tx, "a1", "gone"))
    await second.renew()
    assert newer.closed_for == "unregistered"


async def test_an_overtaken_connection_takes_no_place_on_another_server(replicas: Replicas) -> None:
    first, second, _ = replicas
    await first.kernel.agent("a1")
    newer, ghost = RecorderChannel("a1"), RecorderChannel("a1")
    newer.number, ghost.number = 7, 6
    await first.kernel.fleet.attach(newer)
    with pytest.raises(Overtaken):
        await second.kernel.fleet.attach(ghost)
    await second.renew()
    await first.renew()
    assert newer.closed_for == ""
    assert second.kernel.fleet.hub.channels() == []


# -- a writer that is busy, a server that stands still ----------------------------------------------------


async def test_a_busy_writer_makes_no_agent_silent(kernel: Kernel) -> None:
    """What has arrived counts from its arrival: the check was queued before the heartbeat, and judges no later."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    monitor = SilenceMonitor(kernel.storage, kernel.fleet, kernel.clock, lambda: 0.0)
    async with held_up(kernel.writer):
        kernel.clock.advance(OFFLINE_AFTER - 1)
        checking = asyncio.create_task(monitor.check())
        await asyncio.sleep(0)
        beating = asyncio.create_task(kernel.holds(agent, agent.last.id))
        await asyncio.sleep(0)
        kernel.clock.advance(10 * LEASE)
    await asyncio.gather(checking, beating)
    assert kernel.known("a1").online
    assert kernel.view(run_id)["status"] == "running"
    await monitor.check()
    assert kernel.view(run_id)["status"] == "running"


@pytest.mark.parametrize("still", [True, False])
async def test_who_stood_still_has_heard_no_one(kernel: Kernel, still: bool) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    now = 0.0
    monitor = SilenceMonitor(kernel.storage, kernel.fleet, kernel.clock, lambda: now)
    await monitor.check()
    kernel.clock.advance(2 * LEASE)
    now += 2 * LEASE if still else 1
    await monitor.check()
    assert kernel.known("a1").online is still
    assert (kernel.view(run_id)["status"] == "running") is still
    kernel.clock.advance(OFFLINE_AFTER + 1)
    await monitor.check()
    assert not kernel.known("a1").online, "a grace, not a pardon"
