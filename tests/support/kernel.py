"""The kernel without HTTP and gRPC: every service, built by ``server/graph.py``, under a clock that is set.

What the server's background tasks do by themselves happens here when a test says so: :meth:`Kernel.pump` gives
out work if somebody asked for it, :meth:`Kernel.tick` lets time pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import orjson
import pytest
from sqlalchemy import select
from uuid_utils import uuid7

from pilothouse.access.model import SYSTEM, Principal
from pilothouse.engine import model, run_counts, store
from pilothouse.engine.dispatch import Dispatcher
from pilothouse.engine.gates.model import Gate
from pilothouse.engine.gates.service import Gates
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.growth import Addition
from pilothouse.engine.intake.events import StepEvent
from pilothouse.engine.intake.ingest import Ingest, Receipt
from pilothouse.engine.intake.lines import LogLines
from pilothouse.engine.model import Attempt, Run
from pilothouse.engine.runs import RunCache
from pilothouse.engine.service import Engine, NewRun, Origin
from pilothouse.engine.tasks import StepTasks
from pilothouse.engine.transitions import Transitions
from pilothouse.engine.views import run_view
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.model import (
    Agent,
    AgentProfile,
    Lease,
    Task,
    TaskReport,
    TaskStatus,
    Verdict,
)
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.journal import Entry
from pilothouse.journal import store as journal_store
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import parse_spec
from pilothouse.secrets.service import Secrets
from pilothouse.server.graph import compose
from pilothouse.server.settings import Settings
from pilothouse.storage import Database, Tx
from pilothouse.storage.keyring import Keyring
from pilothouse.wire import entries
from support.databases import reopened
from support.status_checks import check_statuses
from support.waiting import PATIENCE

T = TypeVar("T")

PROJECT = "project-1"
HEARTBEAT, OFFLINE_AFTER, LEASE = 10, 30, 60
KEY = bytes(range(32))
STEPS = ("step", "background")
"""The kinds of work that gRPC carries."""


class Clock:
    """Manual clock in milliseconds since 1970."""

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1000)


class Given:
    """A task that an agent was given; what is not the task's is its payload's (``given.workspace``)."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.id: str = task.id

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task if hasattr(self.task, name) else self.task.payload, name)


class RecorderChannel:
    """A connection to an agent that records what was sent."""

    def __init__(self, agent_id: str, name: str = "grpc", kinds: Collection[str] = STEPS) -> None:
        self.agent_id = agent_id
        self.name = name
        self.kinds = frozenset(kinds)
        self.number = 0
        self.connection_id = str(uuid7())
        self.tasks: list[Given] = []
        self.cancelled: list[tuple[str, str]] = []
        self.closed_for = ""

    def dispatch(self, task: Task) -> None:
        """Work."""
        self.tasks.append(Given(task))

    def cancel(self, task_id: str, reason: str) -> None:
        """A task to be stopped."""
        self.cancelled.append((task_id, reason))

    def close(self, reason: str) -> None:
        """The end."""
        self.closed_for = reason

    @property
    def names(self) -> list[str]:
        """The names of the steps it was given, in order."""
        return [task.name for task in self.tasks]

    @property
    def last(self) -> Given:
        """What it was given last."""
        return self.tasks[-1]


class Kernel:
    """Everything below the transports, on one database."""

    def __init__(
        self, database: Database, clock: Clock, directory: TemporaryDirectory[str] | None = None
    ) -> None:
        """``directory``: the data directory of the server before this one, if it is the same."""
        self.database, self.clock = database, clock
        self.woken = False
        self.following: Kernel | None = None
        self._directory = directory or TemporaryDirectory(prefix="kernel-")
        settings = Settings(
            data_dir=Path(self._directory.name),
            agent_heartbeat=HEARTBEAT,
            agent_offline_after=OFFLINE_AFTER,
            lease=LEASE,
        )
        self.graph = compose(settings, database, Keyring.of(KEY), clock)
        service = self.graph.service
        self.writer, self.storage, self.journal = self.graph.writer, self.graph.storage, self.graph.journal
        self.identity, self.secrets, self.fleet = service(Identity), service(Secrets), service(Fleet)
        self.runs, self.transitions, self.tasks = service(RunCache), service(Transitions), service(StepTasks)
        self.engine, self.dispatcher, self.ingest = service(Engine), service(Dispatcher), service(Ingest)
        self.fleet.on_change(self._wake)
        self.gates, self.unsettled = service(Gates), False
        self.transitions.on_unsettled(self._note_unsettled)

    def _note_unsettled(self) -> None:
        self.unsettled = True

    def _wake(self) -> None:
        self.woken = True

    async def start(self) -> None:
        """As the server starts: writer, then a fresh grace for everyone."""
        self.writer.start(self.journal)
        for module in self.graph.modules:
            if module.started is not None:
                await module.started()
        self.woken = True

    async def stop(self) -> None:
        """Orderly, and for good."""
        await self._stop()
        if self.following is None:
            self._directory.cleanup()

    async def _stop(self) -> None:
        self.identity.close()
        await self.graph.core.pool.close()
        await self.writer.stop()
        self.journal.feed.close()

    def check_memory(self) -> None:
        """As :meth:`check_kept`; and followers of the statuses of runs, jobs, attempts and agents have their current
        state.
        """
        self.check_kept()
        check_statuses(self.database, self.entries())
        self._check_counts()

    def check_kept(self, load: Callable[[str], Run] | None = None) -> None:
        """What the writer keeps of runs in memory is what is stored; a restart would change nothing.

        ``load`` gives a run as stored, where the caller has read it already.
        """
        for run_id, kept in self.runs._kept.items():
            stored = (load or self.load)(run_id)
            differs = [f.name for f in fields(Run) if getattr(stored, f.name) != getattr(kept, f.name)]
            jobs = zip(stored.jobs, kept.jobs, strict=True)
            assert stored == kept, [
                *differs,
                *(
                    (a.name, f.name)
                    for a, b in jobs
                    for f in fields(model.Job)
                    if getattr(a, f.name) != getattr(b, f.name)
                ),
            ]
            assert stored.version == kept.version

    def _check_counts(self) -> None:
        """Runs have been counted as they are stored."""
        with self.database.read() as conn:
            stored: dict[str, list[str]] = {}
            for run in conn.execute(select(store.runs).order_by(store.runs.c.id)):
                if run.pipeline_id:
                    stored.setdefault(run.pipeline_id, []).append(run.status)
            counted = run_counts.of_pipelines(conn, list(stored))
        assert counted == {
            pipeline: run_counts.RunCounts(len(runs), runs.count("succeeded"), runs.count("failed"), runs[-1])
            for pipeline, runs in stored.items()
        }

    def drop_kept(self) -> None:
        """Forget what the writer keeps of runs: each is loaded again when it is needed."""
        for run_id in list(self.runs._kept):
            self.runs._drop(run_id)

    async def restart(self) -> Kernel:
        """Replace the server on the same database; its agents' connections are closed."""
        self.fleet.close()
        await self._stop()
        self.database.close()
        following = Kernel(reopened(self.database), self.clock, self._directory)
        self.following = following
        await following.start()
        return following

    # -- time and work ----------------------------------------------------------------------------------

    async def write(self, use_case: Callable[[Tx], T]) -> T:
        """One use case."""
        return await self.writer.write(use_case)

    async def pump(self) -> None:
        """Advance runs and assign work while there are requests, as the server's tasks do."""
        while self.woken or self.unsettled:
            if self.unsettled:
                self.unsettled = False
                await self._move_on()
            self.woken = False
            await self.write(self.dispatcher.dispatch)

    async def _move_on(self) -> None:
        for run_id in await self.write(self.engine.due):
            await self.write(partial(self.engine.move_on, run_id=run_id))

    async def tick(self, seconds: float = 1) -> None:
        """Let time pass, then do what the server does every second."""
        self.clock.advance(seconds)
        await self._move_on()
        for use_case in (self.fleet.reap, self.dispatcher.give_up_workspaces):
            await self.write(use_case)
        await self.pump()

    async def beat(self, seconds: float, *channels: RecorderChannel) -> None:
        """Let time pass in which these agents beat; all others are silent."""
        while seconds > 0:
            step = min(float(HEARTBEAT), seconds)
            seconds -= step
            self.clock.advance(step)
            for channel in channels:
                await self.write(lambda tx, id=channel.agent_id: self.fleet.heartbeat(tx, id))
            await self.tick(0)

    # -- agents -----------------------------------------------------------------------------------------

    async def agent(self, agent_id: str = "a1", slots: int = 1, **labels: str) -> RecorderChannel:
        """Register an agent and connect it."""
        profile = AgentProfile(agent_id, slots=slots, labels=labels)

        def register(tx: Tx) -> None:
            token = self.fleet.registry.create_registration_token(
                tx, SYSTEM, description="", max_uses=1, expires_in=None
            )
            self.fleet.registry.register(tx, profile, registration_token=str(token["token"]), own_token="")

        await self.write(register)
        return await self.connect(agent_id)

    async def connect(
        self, agent_id: str, name: str = "grpc", kinds: Collection[str] = STEPS
    ) -> RecorderChannel:
        """A new connection of a registered agent."""
        channel = RecorderChannel(agent_id, name, kinds)
        await self.fleet.attach(channel)
        await self.pump()
        return channel

    async def disconnect(self, channel: RecorderChannel) -> None:
        """The connection breaks."""
        await self.fleet.detach(channel, "the connection broke")
        await self.pump()

    async def ack(self, channel: RecorderChannel, task_id: str = "") -> Verdict:
        """The agent starts a task (by default the last assigned)."""
        wanted = task_id or channel.last.id
        return await self.write(lambda tx: self.fleet.acknowledged(tx, channel.agent_id, wanted))

    async def refuse(self, channel: RecorderChannel, message: str = "") -> Verdict:
        """The agent will not start the last task it was given."""
        task_id = channel.last.id
        why = await self.fleet.screened_text(channel.agent_id, task_id, message)
        verdict = await self.write(lambda tx: self.fleet.refused(tx, channel.agent_id, task_id, why))
        await self.pump()
        return verdict

    async def report(
        self,
        channel: RecorderChannel,
        status: TaskStatus = TaskStatus.SUCCEEDED,
        task_id: str = "",
        *,
        exit_code: int = 0,
        error: str = "",
    ) -> Verdict:
        """The agent reports on a task (by default the last assigned)."""
        told = TaskReport(task_id or channel.last.id, status, exit_code, error)
        told = await self.fleet.screened(channel.agent_id, told)
        verdict = await self.write(lambda tx: self.fleet.report(tx, channel.agent_id, told))
        await self.pump()
        return verdict

    async def holds(self, channel: RecorderChannel, *task_ids: str, first: bool = False) -> None:
        """A heartbeat with the agent's held tasks."""
        await self.write(
            lambda tx: self.fleet.heartbeat(tx, channel.agent_id, frozenset(task_ids), first=first)
        )
        await self.pump()

    async def do(self, channel: RecorderChannel, status: TaskStatus = TaskStatus.SUCCEEDED) -> str:
        """Start and end the last task the agent was given; returns its id."""
        task_id = channel.last.id
        assert await self.ack(channel, task_id) is Verdict.ACCEPTED
        assert await self.report(channel, status, task_id) is Verdict.ACCEPTED
        return task_id

    async def push(self, agent_id: str, seq: int, step_run_id: str, *lines: str, id: str = "") -> Receipt:
        """A batch of log lines."""
        batch = LogLines(id or f"batch-{seq}", seq, step_run_id, list(lines))
        return await self.ingest.logs(agent_id, batch, await self.ingest.target(step_run_id))

    async def tell(
        self, agent_id: str, seq: int, step_run_id: str, type: str, payload: dict[str, Any], id: str = ""
    ) -> Receipt:
        """An event of an agent; ``type`` without ``arcentra.``."""
        event = StepEvent(id or f"event-{seq}", seq, step_run_id, f"arcentra.{type}", payload)
        return await self.ingest.event(agent_id, event)

    # -- runs -------------------------------------------------------------------------------------------

    async def run(self, spec: str | Graph, *, pump: bool = True, project: str = PROJECT, **more: Any) -> str:
        """Start a run of a spec or graph; returns its id."""
        origin = Origin(
            **{field.name: more.pop(field.name) for field in fields(Origin) if field.name in more}
        )
        graph = compile_spec(parse_spec(spec).spec) if isinstance(spec, str) else spec
        new = NewRun("pipeline", "build", project, graph, origin, **more)
        run = await self.write(lambda tx: self.engine.start(tx, SYSTEM, new))
        if pump:
            await self.pump()
        return run.id

    async def cancel(self, run_id: str, reason: str = "not wanted", *, force: bool = False) -> None:
        """Cancel a run."""
        await self.write(lambda tx: self.engine.cancel(tx, SYSTEM, run_id, reason, force=force))
        await self.pump()

    async def rerun(self, run_id: str, *, from_failed: bool) -> str:
        """Run it again; returns the new id."""
        run = await self.write(lambda tx: self.engine.rerun(tx, SYSTEM, run_id, from_failed=from_failed))
        await self.pump()
        return run.id

    async def decide(
        self, run_id: str, step: str, decision: str = "approve", by: Principal = SYSTEM, comment: str = ""
    ) -> Gate:
        """Approve or reject the gate of a step."""
        gate_id = self.step(run_id, step)["attempts"][-1]["step_run_id"]
        gate = await self.write(lambda tx: self.gates.decide(tx, by, gate_id, decision, comment))
        await self.pump()
        return gate

    async def pause(self, run_id: str) -> None:
        """Pause a run."""
        await self.write(lambda tx: self.engine.pause(tx, SYSTEM, run_id))

    async def resume(self, run_id: str) -> None:
        """Let it go on."""
        await self.write(lambda tx: self.engine.resume(tx, SYSTEM, run_id))
        await self.pump()

    async def extend(self, run_id: str, *jobs: Job, **steps: tuple[Step, ...]) -> None:
        """Add jobs, and steps to jobs by name."""
        await self.write(lambda tx: self.engine.extend(tx, SYSTEM, run_id, Addition(jobs, steps)))
        await self.pump()

    async def secret(self, name: str, value: str) -> None:
        """Set a secret of the project."""
        await self.write(lambda tx: self.secrets.put(tx, SYSTEM, PROJECT, name, value))

    # -- what there is now ------------------------------------------------------------------------------

    def load(self, run_id: str) -> Run:
        """The run as stored."""
        with self.database.read() as conn:
            run = store.load_run(conn, run_id)
        assert run is not None
        return run

    def view(self, run_id: str) -> dict[str, Any]:
        """The run as clients see it."""
        with self.database.read() as conn:
            shown: dict[str, Any] = orjson.loads(orjson.dumps(run_view(conn, self.load(run_id))))
            return shown

    def step(self, run_id: str, name: str) -> dict[str, Any]:
        """One step as clients see it, by name."""
        return next(s for job in self.view(run_id)["jobs"] for s in job["steps"] if s["name"] == name)

    def attempt(self, step_run_id: str) -> Attempt:
        """One attempt."""
        with self.database.read() as conn:
            found = store.attempt(conn, step_run_id)
        assert found is not None
        return found[1]

    def lease(self, task_id: str) -> Lease | None:
        """The lease of a task."""
        with self.database.read() as conn:
            return fleet_store.lease(conn, task_id)

    def known(self, agent_id: str) -> Agent:
        """An agent as stored."""
        with self.database.read() as conn:
            agent = fleet_store.agent(conn, agent_id)
        assert agent is not None
        return agent

    def entries(self, stream: str | None = None, type: str = "") -> list[Entry]:
        """What the journal holds on disk, of one stream and type or of all."""
        with self.database.read() as conn:
            found, more = journal_store.page(conn, stream, 0, rows=100_000, size=1 << 40)
        assert not more
        return [entry for entry in found if not type or entry.type == type]

    def told(self, run_id: str, type: str) -> list[dict[str, Any]]:
        """The bodies of a run's entries of one type."""
        return [entry.body for entry in self.entries(entries.run_stream(run_id), type)]

    def lines(self, run_id: str) -> list[str]:
        """The run's log."""
        return [line for body in self.told(run_id, entries.STEP_LOGGED) for line in body["lines"]]


@pytest.fixture
async def kernel(database: Database) -> AsyncIterator[Kernel]:
    """A started kernel on each backend in turn."""
    first = Kernel(database, Clock())
    await first.start()
    yield first
    life: Kernel | None = first
    while life is not None:
        if life.following is None:
            life.check_memory()
        await asyncio.wait_for(life.stop(), PATIENCE)
        if life is not first:
            life.database.close()
        life = life.following
