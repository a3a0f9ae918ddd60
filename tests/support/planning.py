"""A run that is planned and changed by the engine's own code, with memory for a database and a script for agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from pilothouse.engine import graph, step_transitions, transitions
from pilothouse.engine.decisions import Decision
from pilothouse.engine.growth import Addition, check_addition, check_graph, grown
from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from pilothouse.engine.plan import decide_job, decide_run
from pilothouse.engine.reruns import new_jobs
from pilothouse.engine.transitions import Transitions
from pilothouse.fleet.model import LeaseState
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import Job as JobSpec
from pilothouse.pipelines.spec import Spec
from pilothouse.pipelines.spec import Step as StepSpec
from support.planning_gates import FakeGates
from support.planning_rows import CONNECTION, Rows, check_counted


@dataclass
class Told:
    """One journal entry, and its time."""

    type: str
    body: dict[str, Any]
    at: int
    subject: str


GRACE = 300_000
"""Milliseconds for cleaning up."""


@dataclass
class Sim:
    """One run; ``leases`` are the attempts that some agent holds, by their state; ``planned`` counts plans.

    ``withdrawn``: the attempts that were taken back, and why. ``woken``: how often there may have been work to hand out.
    ``seconds``: of CPU time that a transaction may take, which do not depend on how busy the machine is.

    ``used``: by the name of a limit and the id of a job, how many milliseconds of it have passed.
    """

    run: Run
    now: int = 1_000_000
    told: list[Told] = field(default_factory=list)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    leases: dict[str, LeaseState] = field(default_factory=dict)
    cancels: list[str] = field(default_factory=list)
    withdrawn: dict[str, str] = field(default_factory=dict)
    planned: int = 0
    woken: int = 0
    seconds: float = 60
    watch: Callable[[], None] = lambda: None
    used: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.gates = FakeGates(self)
        self.grace(GRACE)
        self.rows = Rows(self.run, self.attempts)
        self.rows.note(self.run, *self.parts)

    def grace(self, milliseconds: int) -> None:
        """How long cleaning up may take."""
        fleet: Any = SimpleNamespace(wakers=[self._wake], withdraw=self._withdraw)
        self._transitions = Transitions(self, fleet, milliseconds / 1000)  # type: ignore[arg-type]
        self.steps = self._transitions.steps
        self.steps.handle_gates(self.gates)

    # -- what stands in for journal, fleet and store ----------------------------------------------------

    def append(
        self, tx: Any, stream: str, type: str, scope: str, body: dict[str, Any], *, subject: str
    ) -> None:
        """As the journal does."""
        assert tx.conn is CONNECTION
        assert (stream, scope) == (f"run/{self.run.id}", f"project/{self.run.project}")
        self.told.append(Told(type, body, self.now, subject))

    def _wake(self) -> None:
        """As what hands out work."""
        self.woken += 1

    def _withdraw(self, tx: Any, task_id: str, reason: str) -> LeaseState | None:
        assert tx.conn is CONNECTION
        self.withdrawn[task_id] = reason
        state = self.leases.get(task_id)
        if state is LeaseState.OFFERED:
            del self.leases[task_id]
        if state is not None:
            self.cancels.append(task_id)
        return state

    def _decide_job(self, run: Run, job: Job, now: int) -> list[Decision]:
        self.planned += 1
        self.watch()
        return decide_job(run, job, now)

    @property
    def parts(self) -> list[Job | Step]:
        """The jobs and steps."""
        found: list[Job | Step] = []
        for job in self.run.jobs:
            found += [job, *job.steps]
        return found

    @contextmanager
    def _store(self) -> Iterator[Any]:
        with (
            patch.object(transitions, "graph_store", self.rows),
            patch.object(transitions, "store", self.rows),
            patch.object(step_transitions, "store", self.rows),
            patch.object(transitions, "decide_job", self._decide_job),
            patch.object(transitions, "MAX_SECONDS", self.seconds),
        ):
            effects: list[Callable[[], None]] = []
            yield SimpleNamespace(conn=CONNECTION, now=self.now, after_commit=effects.append)
            for effect in effects:
                effect()

    # -- what happens -----------------------------------------------------------------------------------

    def stale(self, attempt: Attempt) -> bool:
        """Whether an agent holds it in vain: its job has begun again meanwhile."""
        return attempt.status.over

    def settle(self, job: Job | None = None) -> None:
        """Let the planner decide until it waits; ``job``: only this one has changed."""
        with self._store() as tx:
            self._transitions.settle(tx, self.run, job)
        for _ in range(1000):
            if not self.run.unsettled:
                break
            with self._store() as tx:  # each transaction has its share of changes
                self._transitions.settle(tx, self.run)
        assert decide(self.run, self.now) == []
        self.rows.check(self.run, *self.parts, *self.attempts.values())
        check_counted(self.run)
        self.watch()

    def offer(self, attempt: Attempt) -> None:
        """Hand a queued attempt out."""
        attempt.agent_id = "a1"
        self.rows.note(attempt)
        self.leases[attempt.id] = LeaseState.OFFERED

    def start(self, attempt: Attempt) -> None:
        """Its agent begins."""
        self.leases[attempt.id] = LeaseState.STARTED
        job, step = self.place(attempt)
        with self._store() as tx:
            self._transitions.steps.start_attempt(tx, self.run, job, step, attempt, attempt.agent_id)
        if job.step_spec(step).background:
            self.settle(job)

    def end(self, attempt: Attempt, status: Status, error: str = "", **more: Any) -> None:
        """Its agent reports the end; ``more``: exit code and metrics."""
        del self.leases[attempt.id]
        if self.stale(attempt):
            return
        job, step = self.place(attempt)
        with self._store() as tx:
            self._transitions.steps.end_attempt(tx, self.run, job, step, status, error=error, **more)
        self.settle(job)

    def lose(self, attempt: Attempt, *, gone: bool = False) -> None:
        """Its agent will not finish it."""
        started = self.leases.pop(attempt.id) is LeaseState.STARTED
        if self.stale(attempt):
            return
        job, step = self.place(attempt)
        with self._store() as tx:
            self._transitions.lose_attempt(tx, self.run, job, step, "it burnt", started=started, gone=gone)
        self.settle(job)

    def cancel(self, reason: str = "not wanted", *, force: bool = False) -> None:
        """Cancel the run."""
        with self._store() as tx:
            self._transitions.cancel(tx, self.run, reason, force=force, by="alice", by_id="u1")
        self.settle()

    def cancel_job(self, job: Job, reason: str = "not wanted") -> None:
        """Cancel one of the jobs."""
        with self._store() as tx:
            self._transitions.cancel_job(tx, self.run, job, reason)
        self.settle(job)

    def replace(self, step: Step, spec: graph.Step, *fields: str) -> None:
        """Somebody changes the definition of a step."""
        job, _ = self.run.find_step(step.id)
        with self._store() as tx:
            self._transitions.replace_step(
                tx, self.run, job, step, spec, fields=list(fields), by="alice", by_id="u1"
            )
        self.settle(job)

    def reopen(self, step: Step) -> None:
        """Somebody lets the run begin again at a step."""
        job, _ = self.run.find_step(step.id)
        with self._store() as tx:
            self._transitions.reopen(tx, self.run, job, step, by="alice", by_id="u1")
        self.settle()

    def settle_gate(self, attempt: Attempt, status: Status, error: str = "") -> None:
        """Somebody decides an open gate."""
        job, step = self.place(attempt)
        with self._store() as tx:
            self.steps.end_attempt(tx, self.run, job, step, status, error=error)
        self.settle(job)

    def pause(self) -> None:
        """Somebody pauses the run."""
        with self._store() as tx:
            self._transitions.pause(tx, self.run, by="alice", by_id="u1")
        self.settle()

    def resume(self) -> None:
        """Somebody lets the run go on."""
        with self._store() as tx:
            self._transitions.resume(tx, self.run, by="alice", by_id="u1")
        self.settle()

    def extend(self, *jobs: JobSpec, **steps: tuple[StepSpec, ...]) -> None:
        """The run grows by jobs, and by steps at the end of jobs."""
        more = compile_spec(Spec((*jobs, *(JobSpec(name, steps=made) for name, made in steps.items()))))
        of_jobs = {job.name: job.steps for job in more.jobs[len(jobs) :]}
        addition = Addition(more.jobs[: len(jobs)], of_jobs)
        check_addition(self.run.graph, addition)
        larger = grown(self.run.graph, addition)
        check_graph(larger)
        with self._store() as tx:
            self._transitions.extend(tx, self.run, larger, addition, by="alice", by_id="u1")
            self.rows.note(*self.parts)  # what is new needs no row
        self.settle()

    def advance(self, to: int) -> None:
        """Let time pass without anything happening; what is due is done by :meth:`settle`."""
        for job in self.run.jobs:
            if not self.held(job):
                for name, limit in limits(job).items():
                    self.used[name, job.id] += to - self.now if limit else 0
        self.now = to

    def held(self, job: Job) -> bool:
        """Whether the time limits of a job have to stand still."""
        return bool(self.run.paused_at) or any(step.current in self.gates.open for step in job.steps)

    def wait(self) -> bool:
        """Let time pass until something is due, by the conditions of ``store.due_runs``; false if nothing is."""
        due = [
            t
            for job in self.run.jobs
            if job.status is Status.RUNNING
            for t in (
                job.deadline if not job.held_at else 0,
                job.not_before,
                job.queue_deadline if not job.held_at else 0,
                job.cleanup_until if job.stopping else 0,
            )
            if t
        ]
        steps = [step for job in self.run.jobs for step in job.steps]
        due += [s.not_before for s in steps if s.status is Status.PENDING and s.not_before]
        due += [s.deadline for s in steps if s.deadline]
        due = [] if self.run.paused_at else due
        due += [self.run.cleanup_until] if self.run.cleanup_until and not self.run.status.over else []
        later = [t for t in due if t > self.now]
        if not later and not due:
            return False
        self.advance(min(later) if later else self.now)
        self.settle()
        return bool(later)

    # -- what there is ----------------------------------------------------------------------------------

    def place(self, attempt: Attempt) -> tuple[Job, Step]:
        """Where an attempt that still counts belongs."""
        found = self.run.find_step(attempt.step_id)
        assert found[1].current == attempt.id, "only the current attempt is ever with an agent"
        return found

    @property
    def queued(self) -> list[Attempt]:
        """Attempts that may be handed to an agent."""
        if self.run.paused_at:
            return []
        return [a for a in self.attempts.values() if a.status is Status.QUEUED and a.id not in self.leases]

    @property
    def out(self) -> list[Attempt]:
        """Attempts that an agent holds."""
        return [self.attempts[id] for id in self.leases]

    def step(self, name: str) -> Step:
        """A step by name."""
        return next(step for job in self.run.jobs for step in job.steps if step.name == name)

    def tries(self, name: str) -> list[str]:
        """How a step's attempts ended, in order."""
        id = self.step(name).id
        return [a.status.value for a in self.attempts.values() if a.step_id == id]

    def statuses(self) -> dict[str, str]:
        """Every job and step by name."""
        found = {job.name: job.status.value for job in self.run.jobs}
        return found | {step.name: step.status.value for job in self.run.jobs for step in job.steps}

    def of(self, type: str, **keys: Any) -> list[dict[str, Any]]:
        """The bodies of entries of one type with these values."""
        bodies = [t.body for t in self.told if t.type == type]
        return [b for b in bodies if all(b.get(key) == value for key, value in keys.items())]

    def play(self, **outcomes: str) -> None:
        """Run to the end; outcomes by step name, a word for each attempt, ``ok`` where none is left.

        Words: ``ok``, ``fail``, ``timeout``, ``cancel``, ``lost``, ``gone`` (lost, and its agent with it),
        ``refused`` (lost before it started).
        """
        script = {name: words.split() for name, words in outcomes.items()}
        self.settle()
        for turn in count():
            if self.run.status.over:
                break
            assert turn < 10_000, "it never ends"
            if not self.queued:
                assert self.wait(), f"stuck: {self.statuses()}"
                continue
            attempt = self.queued[0]
            words = script.get(self.place(attempt)[1].name, [])
            self.do(attempt, words.pop(0) if words else "ok")

    def do(self, attempt: Attempt, word: str) -> None:
        """Hand a queued attempt out and let its agent do as the word says."""
        self.offer(attempt)
        if word == "refused":
            self.lose(attempt)
            return
        self.start(attempt)
        if word in ("lost", "gone"):
            self.lose(attempt, gone=word == "gone")
        else:
            self.end(attempt, ENDS[word], "" if word == "ok" else f"said {word}")


def limits(job: Job) -> dict[str, int]:
    """Until when (ms) a job may wait, run and clean up after it ran for too long; 0: no limit."""
    cleanup = job.cleanup_until if job.stopping == Status.TIMED_OUT else 0
    return {"deadline": job.deadline, "queue_deadline": job.queue_deadline, "cleanup_until": cleanup}


RUN_ID = "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"

ENDS = {
    "ok": Status.SUCCEEDED,
    "fail": Status.FAILED,
    "timeout": Status.TIMED_OUT,
    "cancel": Status.CANCELLED,
}


def sim(*jobs: JobSpec) -> Sim:
    """A run of these jobs that has not begun."""
    run = Run(RUN_ID, "pipeline", "build", "p", "", Status.PENDING, compile_spec(Spec(jobs)), {})
    run.jobs = new_jobs(run.id, run.graph)
    run.recount()
    return Sim(run)


def decide(run: Run, now: int) -> list[Decision]:
    """All that can be decided of a run and its jobs."""
    first = decide_run(run, now)
    return first or [decision for job in run.jobs for decision in decide_job(run, job, now)]


def job(name: str, *steps: StepSpec | str, **more: Any) -> JobSpec:
    """A job; a step may be given by its name alone."""
    made = tuple(StepSpec(s, "dummy", "run") if isinstance(s, str) else s for s in steps)
    return JobSpec(name, steps=made, **more)


def step(name: str, **more: Any) -> StepSpec:
    """A step."""
    return StepSpec(name, "dummy", "run", **more)


def gate(name: str, uses: str = "approval", action: str = "wait", **more: Any) -> StepSpec:
    """A step that is a gate."""
    return StepSpec(name, uses, action, **more)


def started(*jobs: JobSpec) -> Sim:
    """A run whose first steps have all been started."""
    run = sim(*jobs)
    run.settle()
    for attempt in run.queued:
        run.offer(attempt)
        run.start(attempt)
    return run


def finish(run: Sim, word: str = "ok") -> list[str]:
    """Carry out all that is queued, and what is queued then; returns the names of the steps."""
    done = []
    while run.queued:
        attempt = run.queued[0]
        done.append(run.place(attempt)[1].name)
        run.do(attempt, word)
    return done
