"""A kernel with agents and users, and what must hold between any two commands."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM, Principal, Role
from pilothouse.engine import store
from pilothouse.engine.gates.store import find_gate
from pilothouse.engine.graph import Graph
from pilothouse.engine.ids import first_step_run_id
from pilothouse.engine.model import Job, Run, Status
from pilothouse.engine.plan import decide_job, decide_run
from pilothouse.journal import store as journal_store
from pilothouse.storage import Tx
from support.kernel import Kernel, RecorderChannel
from support.stateful.fold import OVER, Told

T = TypeVar("T")
SLOTS = {"a1": 1, "a2": 2}
ROLES = {"ada": Role.ADMIN, "olga": Role.OPERATOR, "oscar": Role.OPERATOR, "uwe": Role.USER}


@dataclass
class Handed:
    """A task that an agent was given. ``done``: the agent has nothing more to say about it."""

    id: str
    agent: str
    run: str
    done: bool = False


class World:
    """Two agents, four users and some runs on one kernel; :meth:`check` says what must always hold."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.channels: dict[str, RecorderChannel] = {}
        self.away: set[str] = set()
        self.runs: dict[str, Told] = {}
        self.handed: dict[str, Handed] = {}
        self.users: dict[str, str] = {}
        self.approvals: dict[str, set[str]] = {}
        self._loaded: dict[str, Run] = {}
        self._ended: set[str] = set()
        self._offset = 1
        self._seen: dict[str, int] = {}

    async def begin(self) -> None:
        """Register agents and users."""
        await self.kernel.start()

        def register(tx: Tx) -> None:
            users = self.kernel.identity.users
            for name, role in ROLES.items():
                user = users.create(tx, SYSTEM, username=name, password_hash="none", role=role)
                self.users[name] = user.id

        await self.kernel.write(register)
        for name, slots in SLOTS.items():
            self.channels[name] = await self.kernel.agent(name, slots=slots)
        self.check()

    def user(self, name: str) -> Principal:
        """A user with their rights now."""
        with self.kernel.database.read() as conn:
            found = self.kernel.identity.principal_of(conn, self.users[name])
        assert found is not None
        return found

    async def restart(self) -> None:
        """Another server on the same database; agents connect again."""
        self.kernel = await self.kernel.restart()
        for name in self.channels:
            if name not in self.away:
                await self.connect(name)

    async def connect(self, name: str) -> None:
        """A new connection of an agent."""
        self.away.discard(name)
        self.channels[name], self._seen[name] = await self.kernel.connect(name), 0

    async def disconnect(self, name: str) -> None:
        """An agent is gone."""
        self.away.add(name)
        await self.kernel.disconnect(self.channels[name])

    async def wait(self, seconds: float) -> None:
        """Let time pass; agents that are not away have sent heartbeats."""
        self.kernel.clock.advance(seconds)
        for name in self.channels:
            if name not in self.away:
                await self.kernel.write(lambda tx, name=name: self.kernel.fleet.heartbeat(tx, name))  # type: ignore[misc]
        await self.kernel.tick(0)

    async def allowed(self, command: Awaitable[T]) -> T | None:
        """Do what may be refused; None if it was, which has changed nothing."""
        before = self._last_offset()
        try:
            return await command
        except Refusal:
            assert self._last_offset() == before, "a refusal leaves no entry"
            return None

    def _last_offset(self) -> int:
        with self.kernel.database.read() as conn:
            found, more = journal_store.page(conn, None, self._offset, rows=100_000, size=1 << 30)
        assert not more
        return found[-1].offset if found else self._offset - 1

    # -- what there is to choose from -------------------------------------------------------------------

    @property
    def tasks(self) -> list[Handed]:
        """Tasks of which agents have not reported the end, in the order in which they were given out."""
        return [task for task in self.handed.values() if not task.done]

    def status(self, task: Handed) -> str:
        """The status of its attempt."""
        return self.runs[task.run].attempts[task.id].status

    @property
    def open_gates(self) -> list[tuple[Told, str]]:
        """Runs and step run ids of open gates."""
        return [
            (told, id)
            for told in self.runs.values()
            for id, attempt in told.attempts.items()
            if attempt.gate and attempt.status not in OVER
        ]

    def step_runs(self, told: Told) -> list[str]:
        """The newest step run of each step of a run."""
        run = self.kernel.load(told.run_id)
        with self.kernel.database.read() as conn:
            tries = store.attempts_of_steps(conn, [step.id for job in run.jobs for step in job.steps])
        return [
            tries[step.id][-1].id if step.id in tries else first_step_run_id(run.id, job.index, step.index)
            for job in run.jobs
            for step in job.steps
            if not step.kept
        ]

    # -- what must hold ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Take in what was written, and compare it with the tables, the caches and what agents were given."""
        self._read()
        self._see_dispatches()
        self._check_capacity()
        self.kernel.check_kept(self._load)
        for id, told in self.runs.items():
            if id not in self._ended:
                self._check_tables(told, self._load(id))
            if told.over:
                self._ended.add(id)  # until an entry says that it goes on
            else:
                self._check_settled(self._load(id))
        self._check_gates()
        self._check_groups()

    def _read(self) -> None:
        self._loaded.clear()
        with self.kernel.database.read() as conn:
            found, more = journal_store.page(conn, None, self._offset, rows=100_000, size=1 << 30)
        assert not more
        for entry in found:
            assert entry.offset >= self._offset, "offsets rise"
            self._offset = entry.offset + 1
            kind, _, id = entry.stream.partition("/")
            if kind == "run":
                if id not in self.runs:
                    self.runs[id] = Told(id, lambda id=id: self._graph(id))  # type: ignore[misc]
                self._ended.discard(id)
                self.runs[id].apply(entry)

    def _graph(self, run_id: str) -> Graph:
        return self._load(run_id).graph

    def _load(self, run_id: str) -> Run:
        """A run as stored, read once in each check."""
        if run_id not in self._loaded:
            self._loaded[run_id] = self.kernel.load(run_id)
        return self._loaded[run_id]

    def _see_dispatches(self) -> None:
        for name, channel in self.channels.items():
            for task in channel.tasks[self._seen.get(name, 0) :]:
                known = self.handed.get(task.id)
                if known is not None:
                    assert known.agent == name, "nothing is handed out to two agents"
                    continue
                told = self.runs[task.run_id]
                attempt = told.attempts[task.id]
                assert attempt.status == "queued", "only what waits is handed out"
                assert not told.paused, "nothing is handed out while its run is paused"
                assert not told.cancelling or told.cleans(attempt.job, attempt.step)
                self.handed[task.id] = Handed(task.id, name, told.run_id)
            self._seen[name] = len(channel.tasks)

    def _check_capacity(self) -> None:
        held = dict.fromkeys(SLOTS, 0)
        for task in self.handed.values():
            attempt = self.runs[task.run].attempts[task.id]
            beside = self.runs[task.run].beside(attempt)
            held[task.agent] += attempt.status not in OVER and not (beside and attempt.status == "running")
        assert all(held[name] <= slots for name, slots in SLOTS.items()), held

    def _check_tables(self, told: Told, run: Run) -> None:
        assert (run.status, bool(run.paused_at), run.cancelling, run.forced) == (
            told.status,
            told.paused,
            told.cancelling,
            told.forced,
        )
        assert [(job.name, job.status) for job in run.jobs] == [(n, j.status) for n, j in told.jobs.items()]
        for job in run.jobs:
            steps = told.jobs[job.name].steps
            if job.status is Status.RUNNING:
                assert job.round == told.jobs[job.name].round
            assert [(s.name, s.status) for s in job.steps] == [(n, s.status) for n, s in steps.items()]
        with self.kernel.database.read() as conn:
            tries = store.attempts_of_steps(conn, [step.id for job in run.jobs for step in job.steps])
        stored = {one.id: one.status.value for some in tries.values() for one in some}
        # Step runs that have ended without an attempt have no row.
        assert stored.items() <= {id: one.status for id, one in told.attempts.items()}.items()
        assert all(one.status in OVER for id, one in told.attempts.items() if id not in stored)

    def _check_settled(self, run: Run) -> None:
        """What is stored leaves nothing to decide: a server that starts now would go on in the same way."""
        now = self.kernel.clock.now
        assert not run.unsettled
        assert decide_run(run, now) == []
        for job in run.jobs:
            assert decide_job(run, job, now) == [], job.name
            if not job.status.over:
                self._check_limits(run, job, self.runs[run.id].jobs[job.name].worked)

    def _check_limits(self, run: Run, job: Job, worked: bool) -> None:
        """Time limits stand still in a pause and while a gate is open, and only then.

        ``worked``: an agent has begun a step of it since it started, so its timeout counts, not that of the queue.
        """
        gated = any(step.current and job.step_spec(step).gate for step in job.steps)
        limited = job.deadline or job.queue_deadline or job.stopping == Status.TIMED_OUT
        if not (run.paused_at or gated):
            assert not job.held_at, job.name
        elif limited:
            assert job.held_at, job.name
        if worked:
            assert not job.queue_deadline, job.name
            assert job.stopping or bool(job.deadline) == bool(job.spec.timeout), job.name

    def _check_groups(self) -> None:
        """At most one run, and one job, of a concurrency group goes on at a time."""
        active = [self._load(told.run_id) for told in self.runs.values() if not told.over]
        runs = [run for run in active if run.graph.concurrency and not run.waits_for]
        assert len(runs) <= 1, [run.id for run in runs]
        jobs = [job for run in active for job in run.jobs if job.spec.concurrency]
        assert sum(job.status is Status.RUNNING for job in jobs) <= 1

    def _check_gates(self) -> None:
        with self.kernel.database.read() as conn:
            for told in self.runs.values():
                for id, attempt in told.attempts.items():
                    if not attempt.gate:
                        continue
                    gate = find_gate(conn, id)
                    assert gate is not None
                    assert (gate.status == "open") == (attempt.status not in OVER)
                    if attempt.status == "succeeded":
                        needed = told.step_spec(attempt.job, attempt.step).args["count"]
                        assert len(self.approvals.get(id, ())) >= needed

    # -- the end ----------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Everybody does their work from now on: every run ends, in a bounded number of rounds."""
        for name in sorted(self.away):
            await self.connect(name)
        for _ in range(300):
            self.check()
            active = [told for told in self.runs.values() if not told.over]
            if not active:
                break
            await self._round(active)
        else:
            raise AssertionError(f"these runs do not end: {[self.kernel.view(t.run_id) for t in active]}")
        for _ in range(2):
            for task in self.tasks:
                await self._do(task)
        self.check()
        held = [self.kernel.lease(id) for id in self.handed]
        assert held == [None] * len(held), "no lease is left"

    async def _round(self, active: list[Told]) -> None:
        for told in active:
            if told.paused:
                await self.kernel.resume(told.run_id)
        for told, id in self.open_gates:
            for name in ("ada", "olga"):
                await self.allowed(self.decide(told, id, name, "approve"))
        tasks = self.tasks
        for task in tasks:
            await self._do(task)
        if not tasks:
            await self.wait(20)

    async def _do(self, task: Handed) -> None:
        channel = self.channels[task.agent]
        await self.kernel.ack(channel, task.id)
        await self.kernel.report(channel, task_id=task.id)
        task.done = True
        self.check()

    async def decide(self, told: Told, gate_id: str, name: str, decision: str) -> None:
        """A user decides a gate; what that does is predicted."""
        by = self.user(name)
        gates = self.kernel.gates
        await self.kernel.write(lambda tx: gates.decide(tx, by, gate_id, decision, ""))
        if decision == "approve":
            may = {u for u in self.approvals.get(gate_id, set()) if self.may_approve(u)}
            self.approvals[gate_id] = may | {name}
        await self.kernel.pump()

    def may_approve(self, name: str) -> bool:
        """Whether a user has the right to decide the gates of these runs."""
        return self.user(name).role in (Role.ADMIN, Role.OPERATOR)
