"""A new kind of task, as a domain adds it, on both databases and two channels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import Connection

from pilothouse.access.model import SYSTEM
from pilothouse.fleet import grpc as fleet_grpc
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.grpc import GrpcChannel
from pilothouse.fleet.model import AgentProfile, Lease, LeaseState, Task, TaskReport, TaskStatus, WorkKind
from pilothouse.fleet.registry import Allowance
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Tx
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from support.kernel import LEASE, PROJECT, Kernel, RecorderChannel

PROBE = WorkKind("probe", capacity="probes")
PROBES = "probes"
"""The channel of this domain's own; its agents get each task as one line of text."""


@dataclass(frozen=True)
class Probe:
    """The payload."""

    url: str


class Probes:
    """A domain that tracks the outcome of its tasks."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.heard: list[tuple[str, ...]] = []

    def give(self, task_id: str, url: str = "https://x/") -> Task:
        self.urls[task_id] = url
        return self._task(task_id)

    def _task(self, task_id: str) -> Task:
        secrets = {"TOKEN": "hunter2"}
        return Task(task_id, PROBE.name, Probe(self.urls[task_id]), PROJECT, timeout=5, secrets=secrets)

    # -- TaskHandler ------------------------------------------------------------------------------------

    def started(self, tx: Tx, lease: Lease) -> None:
        self.heard.append(("started", lease.id))

    def finished(self, tx: Tx, lease: Lease, report: TaskReport) -> None:
        self.heard.append((report.status.value, lease.id, report.error))

    def lost(self, tx: Tx, lease: Lease, reason: str) -> None:
        self.heard.append(("lost", lease.id, reason))

    def task(self, tx: Tx, lease: Lease) -> Task | None:
        return self._task(lease.id) if lease.id in self.urls else None

    def cancel_reason(self, tx: Tx, lease: Lease) -> str | None:
        return lease.stop_reason or None

    def repeated(self, conn: Connection, agent_id: str, report: TaskReport) -> bool:
        return (report.status.value, report.task_id, report.error) in self.heard


def as_line(task: Task) -> str:
    """The form of a probe on this domain's channel."""
    assert isinstance(task.payload, Probe)
    return f"{task.id} {task.payload.url} {task.timeout:g}s {task.secrets['TOKEN']}"


def as_step_run(task: Task) -> pb.StepRun:
    """Its form on gRPC."""
    assert isinstance(task.payload, Probe)
    return pb.StepRun(step_run_id=task.id, uses="probe", args={"url": task.payload.url}, mask=["hunter2"])


class ProbesChannel(RecorderChannel):
    """The adapter of that channel: it uses encoders by kind."""

    def __init__(self, fleet: Fleet, agent_id: str) -> None:
        self._encoders = fleet.encoders(PROBES)
        super().__init__(agent_id, PROBES, self._encoders)
        self.sent: list[str] = []

    def dispatch(self, task: Task) -> None:
        self.sent.append(self._encoders[task.kind](task))


@pytest.fixture
def probes(kernel: Kernel) -> Probes:
    handler = Probes()
    kernel.fleet.handle(PROBE, handler)
    kernel.fleet.encode(PROBES, PROBE, as_line)
    kernel.fleet.encode(fleet_grpc.CHANNEL, PROBE, as_step_run)
    return handler


async def connected(kernel: Kernel, agent_id: str = "a1") -> ProbesChannel:
    await kernel.agent(agent_id)
    return await joined(kernel, agent_id)


async def joined(kernel: Kernel, agent_id: str = "a1") -> ProbesChannel:
    channel = ProbesChannel(kernel.fleet, agent_id)
    await kernel.fleet.attach(channel)
    return channel


async def grant(kernel: Kernel, task: Task, agent_id: str = "a1") -> None:
    await kernel.write(lambda tx: kernel.fleet.grant(tx, task, agent_id))


def commands(channel: GrpcChannel) -> list[pb.ConnectResponse]:
    """What waits to be sent over this connection."""
    waiting = [channel.commands.get_nowait() for _ in range(channel.commands.qsize())]
    return [command for command in waiting if command is not None]


async def test_a_task_goes_out_in_the_form_of_its_channel(kernel: Kernel, probes: Probes) -> None:
    channel = await connected(kernel)
    await grant(kernel, probes.give("t1"))
    assert channel.sent == ["t1 https://x/ 5s hunter2"]
    lease = kernel.lease("t1")
    assert lease is not None
    assert (lease.kind, lease.state, lease.project) == ("probe", LeaseState.OFFERED, PROJECT)
    with kernel.database.read() as conn:
        assert fleet_store.held_by_agent(conn, "probes") == {"a1": 1}
        assert fleet_store.held_by_agent(conn) == {}, "it takes none of the slots"


async def test_grpc_carries_a_kind_once_it_has_an_encoder(kernel: Kernel, probes: Probes) -> None:
    await kernel.agent("a1")
    channel = GrpcChannel("a1", encoders=kernel.fleet.encoders(fleet_grpc.CHANNEL))
    assert channel.kinds == {"step", "background", "probe"}
    await kernel.fleet.attach(channel)
    await grant(kernel, probes.give("t1"))
    await kernel.write(lambda tx: kernel.fleet.withdraw(tx, "t1", "not wanted"))
    dispatched, cancelled = commands(channel)
    expected = as_step_run(probes.give("t1"))
    assert (dispatched.command_id, list(dispatched.task_dispatch.step_runs)) == ("t1", [expected])
    assert cancelled.task_cancel == pb.TaskCancel(step_run_id="t1", reason="not wanted")


async def test_its_owner_hears_of_its_start_and_end(kernel: Kernel, probes: Probes) -> None:
    channel = await connected(kernel)
    await grant(kernel, probes.give("t1"))
    assert await kernel.ack(channel, "t1") == "accepted"
    assert await kernel.report(channel, TaskStatus.FAILED, "t1", error="no route") == "accepted"
    assert probes.heard == [("started", "t1"), ("failed", "t1", "no route")]
    assert kernel.lease("t1") is None
    assert await kernel.report(channel, TaskStatus.FAILED, "t1", error="no route") == "repeated"
    assert await kernel.report(channel, TaskStatus.SUCCEEDED, "t1") == "stale"
    assert len(probes.heard) == 2


async def test_withdrawn_before_it_started_it_is_over_and_afterwards_it_is_stopped(
    kernel: Kernel, probes: Probes
) -> None:
    channel = await connected(kernel)
    await grant(kernel, probes.give("t1"))
    await grant(kernel, probes.give("t2"))
    await kernel.ack(channel, "t2")
    states = [
        await kernel.write(lambda tx, id=id: kernel.fleet.withdraw(tx, id, "enough"))
        for id in ("t1", "t2", "t3")
    ]
    assert states == [LeaseState.OFFERED, LeaseState.STARTED, None]
    assert channel.cancelled == [("t1", "enough"), ("t2", "enough")]
    again = await joined(kernel)
    assert (again.sent, again.cancelled) == ([], [("t2", "enough")])
    await kernel.report(again, TaskStatus.CANCELLED, "t2")
    assert probes.heard == [("started", "t2"), ("cancelled", "t2", "")]


async def test_its_owner_hears_of_its_loss(kernel: Kernel, probes: Probes) -> None:
    channel = await connected(kernel)
    for task_id in ("t1", "t2", "t3"):
        await grant(kernel, probes.give(task_id))
    await kernel.ack(channel, "t1")
    await kernel.ack(channel, "t2")
    await says_it_holds(kernel, channel, {"t1"})
    assert probes.heard[2:] == [("lost", "t2", "agent a1 no longer runs it")]
    await kernel.tick(LEASE + 1)
    assert sorted(probes.heard[3:]) == [
        ("lost", "t1", f"agent a1 has sent no heartbeat for {LEASE} s"),
        ("lost", "t3", f"agent a1 did not start it within {LEASE} s"),
    ]
    assert [id for id, _ in channel.cancelled] == ["t2", "t1", "t3"]


async def says_it_holds(kernel: Kernel, channel: RecorderChannel, held: Collection[str]) -> None:
    await kernel.write(
        lambda tx: kernel.fleet.heartbeat(tx, channel.agent_id, held, first=True, kinds=channel.kinds)
    )


async def test_an_offer_is_encoded_again_for_the_next_connection(kernel: Kernel, probes: Probes) -> None:
    channel = await connected(kernel)
    await grant(kernel, probes.give("t1"))
    await grant(kernel, probes.give("t2"))
    del probes.urls["t2"]  # its owner can no longer make the task
    again = await joined(kernel)
    assert again.sent == channel.sent[:1]
    assert probes.heard == [("lost", "t2", "it can no longer be handed out")]


async def test_an_agent_bound_to_one_project_loses_what_is_only_offered_of_others(
    kernel: Kernel, probes: Probes
) -> None:
    """No domain has to think of that: the lease names the project."""
    channel = await connected(kernel)
    project = await kernel.write(lambda tx: kernel.identity.projects.create(tx, SYSTEM, name="shop"))
    for task_id in ("t1", "t2"):
        await grant(kernel, probes.give(task_id))
    await grant(kernel, replace(probes.give("t3"), project=project.id))
    await kernel.ack(channel, "t1")

    def bind(tx: Tx) -> None:
        allows = Allowance(agents=["a1"], projects=["shop"])
        token = kernel.fleet.registry.create_registration_token(
            tx, SYSTEM, description="", max_uses=1, expires_in=None, allows=allows
        )
        profile, secret = AgentProfile("a1"), str(token["token"])
        kernel.fleet.registry.register(tx, profile, registration_token=secret, own_token="")

    await kernel.write(bind)
    assert probes.heard == [("started", "t1"), ("lost", "t2", "agent a1 is bound to other projects")]
    assert kernel.lease("t3") is not None
