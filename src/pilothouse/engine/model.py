"""The state of runs, jobs, steps and attempts. The planner reads it; only the transitions change it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pilothouse.engine.graph import Graph
from pilothouse.engine.graph import Job as JobSpec
from pilothouse.engine.graph import Step as StepSpec


class Status(StrEnum):
    """The status of a run, job, step or attempt (design.md)."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"

    @property
    def over(self) -> bool:
        """Whether this status is final."""
        return self in _OVER

    @property
    def bad(self) -> bool:
        """Whether it makes the parent fail."""
        return self in (Status.FAILED, Status.TIMED_OUT)


_OVER = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT, Status.SKIPPED})

LOST = "lost: "
"""How the error of a lost attempt begins, on every wire."""

JOB_ENDED = "stopped, since its job has ended"
"""The reason of background steps that ended with their job."""

MAX_LOST_RERUNS = 2
"""Started work that was lost is tried again at most so often, where its spec allows it at all."""

MAX_UNSTARTED = 10
"""Work that agents took but never started goes back to the queue at most so often."""


@dataclass(slots=True)
class Attempt:
    """One attempt of a step under one lease; its id is the ``step_run_id`` and the fencing token.

    ``selector``: JSON of the required labels; ``lines`` and ``percent``: log lines and progress received so far.
    """

    id: str
    step_id: str
    number: int
    status: Status
    selector: str = ""
    agent_id: str = ""
    exit_code: int = 0
    error: str = ""
    reason: str = ""
    lines: int = 0
    percent: int = 0
    queued_at: int = 0
    started_at: int = 0
    finished_at: int = 0


SETTLE_STEPS = 1_000_000
"""Steps of all conditions that are evaluated until a run is settled, about half a second."""

_NONE = dict.fromkeys(Status, 0)


class Counts:
    """The number of jobs or steps per status, updated when they change."""

    __slots__ = ("_by_status", "total")

    def __init__(self, statuses: Iterable[Status] = ()) -> None:
        self.total = 0
        self._by_status = _NONE.copy()
        for status in statuses:
            self.add(status)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self._by_status == other._by_status

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, status: Status, number: int = 1) -> None:
        """Count new ones."""
        self.total += number
        self._by_status[status] += number

    def move(self, previous: Status, status: Status) -> None:
        """Count a change of status."""
        self._by_status[previous] -= 1
        self._by_status[status] += 1

    def of(self, status: Status) -> int:
        """The number with this status."""
        return self._by_status[status]

    @property
    def completed(self) -> int:
        """The number that are over."""
        return sum(self._by_status[status] for status in _OVER)

    @property
    def failed(self) -> int:
        """The number of failures."""
        return self._by_status[Status.FAILED] + self._by_status[Status.TIMED_OUT]

    def shown(self) -> dict[str, int]:
        """The JSON form, for entries and clients."""
        return {
            "total": self.total,
            "completed": self.completed,
            "failed": self.failed,
            "running": self._by_status[Status.RUNNING],
        }


@dataclass(slots=True)
class Step:
    """One step of a job.

    ``failures`` counts failed attempts in this round of the job; ``lost``, ``unstarted`` and ``attempts`` count over
    all rounds. ``current``: the queued or running attempt, or the open gate; ``stopping``: the status for which it is
    being stopped. ``kept``: it is over because an earlier run executed it. ``deadline`` (ms): when an open gate is
    checked again. ``stored``: it has a row; a step that has not changed needs none. Status and outputs may only be
    changed by the :class:`Job`.
    """

    id: str
    job_id: str
    index: int
    name: str
    status: Status
    reason: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    failures: int = 0
    lost: int = 0
    unstarted: int = 0
    attempts: int = 0
    current: str = ""
    stopping: str = ""
    kept_from: str = ""
    kept: bool = False
    not_before: int = 0
    deadline: int = 0
    started_at: int = 0
    finished_at: int = 0
    stored: bool = False


def restart_step(step: Step) -> None:
    """Reset a step to before its first attempt of a round of its job; ``Job.recount`` must follow."""
    if step.status.over and not step.attempts and not step.kept:
        step.attempts = 1  # its step run ended without an attempt; the next step run is a new one
    step.status, step.reason, step.outputs, step.failures = Status.PENDING, "", {}, 0
    step.current, step.stopping, step.kept = "", "", False
    step.not_before = step.deadline = step.started_at = step.finished_at = 0


@dataclass(slots=True)
class Job:
    """One job. ``round`` counts its starts from the first step; ``agent_id``: the agent that holds its workspace.

    Times in ms, 0: none. ``deadline``: the end of its timeout, which begins with its first step; ``queue_deadline``:
    the end of its queue timeout; both are suspended from ``held_at`` on, while one of its gates is open or its run is
    paused. ``stopping``: its final status after cleanup; ``cleanup_until``: the time limit of cleanup, which in a
    cancelled run is not 0 in each job to which the cancel was applied. ``begun``: an agent has started a step of it
    in this run. ``unmet``: the number of its dependencies that are not over. ``waits_for``: the job that holds its
    concurrency group; stored with the members of the group.
    """

    id: str
    index: int
    name: str
    status: Status
    spec: JobSpec
    reason: str = ""
    round: int = 1
    lost: int = 0
    workspace: str = ""
    agent_id: str = ""
    fresh: bool = True
    not_before: int = 0
    deadline: int = 0
    queue_deadline: int = 0
    held_at: int = 0
    cleanup_until: int = 0
    stopping: str = ""
    kept_from: str = ""
    started_at: int = 0
    finished_at: int = 0
    steps: list[Step] = field(default_factory=list)
    stored: bool = False
    begun: bool = False
    unmet: int = 0
    waits_for: str = ""
    counts: Counts = field(default_factory=Counts)
    _open: OrderedDict[int, Step] = field(default_factory=OrderedDict)
    _awaited: OrderedDict[int, Step] = field(default_factory=OrderedDict)
    _failing: int | None = None
    _with_outputs: dict[int, Step] = field(default_factory=dict)
    _own_open: int = 0
    _has_own: bool = False

    def recount(self) -> None:
        """Recompute the values that :meth:`move` updates, after steps were loaded, reset or added."""
        self.counts = Counts(step.status for step in self.steps)
        started = (step for step in self.steps if step.started_at and step.attempts)
        self.begun = self.round > 1 or any(not self.step_spec(step).gate for step in started)
        self._open = OrderedDict((step.index, step) for step in self.steps if step.status not in _OVER)
        self._awaited = self._open.copy()
        for step in [step for step in self._open.values() if step.status is Status.RUNNING]:
            if self._beside(step):
                del self._awaited[step.index]
        over = (step for step in self.steps if step.index not in self._open)
        self._failing = next((step.index for step in over if self._fails(step)), None)
        self._with_outputs = {step.index: step for step in self.steps if step.outputs}
        own = [index for index, spec in enumerate(self.spec.steps) if not spec.background]
        self._has_own = bool(own)
        self._own_open = sum(index in self._open for index in own)

    def move(self, step: Step, status: Status) -> Status:
        """Change a step's status; returns the previous one. A step that is over stays over until :meth:`recount`."""
        previous, step.status = step.status, status
        self.counts.move(previous, status)
        if status.over:
            self._open.pop(step.index, None)
            self._awaited.pop(step.index, None)
            if not previous.over and not self.step_spec(step).background:
                self._own_open -= 1
            if self._fails(step) and (self._failing is None or step.index < self._failing):
                self._failing = step.index
        elif self._beside(step):
            self._awaited.pop(step.index, None)
        elif self.step_spec(step).background and step.index not in self._awaited:
            self._awaited[step.index] = step
            for index in [i for i in self._awaited if i > step.index]:
                self._awaited.move_to_end(index)
        return previous

    def step_spec(self, step: Step) -> StepSpec:
        """The definition of a step."""
        return self.spec.steps[step.index]

    def _beside(self, step: Step) -> bool:
        """Whether it is running in the background, so that later steps do not wait for it."""
        return step.status is Status.RUNNING and self.step_spec(step).background

    def _fails(self, step: Step) -> bool:
        if step.status.bad:
            return not self.step_spec(step).continue_on_error
        return step.status is Status.CANCELLED

    @property
    def unfinished(self) -> Iterator[Step]:
        """The steps that are not over, in order; no step may be changed during the iteration."""
        return iter(self._open.values())

    @property
    def background(self) -> list[Step]:
        """The steps that are not over and run in the background."""
        return [step for step in self._open.values() if step.index not in self._awaited]

    @property
    def awaited(self) -> Iterator[Step]:
        """The steps that are not over and do not run in the background."""
        return iter(self._awaited.values())

    @property
    def failing(self) -> Step | None:
        """The first step that makes the job fail."""
        return None if self._failing is None else self.steps[self._failing]

    @property
    def own_steps_over(self) -> bool:
        """Whether all steps that do not run in the background are over, and there are any."""
        return self._has_own and not self._own_open

    def outputs(self) -> dict[str, Any]:
        """The outputs of all its steps; for equal names that of the later step."""
        merged: dict[str, Any] = {}
        for index in sorted(self._with_outputs):
            merged.update(self.steps[index].outputs)
        return merged

    def set_outputs(self, step: Step, outputs: dict[str, Any]) -> None:
        """Replace the outputs of one of its steps."""
        step.outputs = outputs
        if outputs:
            self._with_outputs[step.index] = step
        else:
            self._with_outputs.pop(step.index, None)

    @property
    def at_step(self) -> int:
        """The index of the first step that is not over; of the last one if all are."""
        return next(iter(self._open), max(len(self.steps) - 1, 0))


@dataclass(slots=True)
class Run:
    """One run with all its jobs and steps. ``definition``: the head of the saved spec it was created from, if any.

    ``cleanup_until`` (ms): the time limit of cleanup after a cancel; ``forced``: cleanup is skipped or stopped.
    ``paused_at`` (ms): 0 if it is not paused; ``paused_by``: the user who paused it.
    ``parent_gate``: the gate of another run that waits for this one; ``depth``: the number of runs above it, or
    that led to it by their events.
    ``unsettled``: further decisions are left for another transaction. ``agenda``: the jobs to be planned.
    ``condition_steps``: what is left for conditions until it is settled; not stored.
    ``version`` counts the transactions that may have changed it, if several servers share the database.
    ``waits_for``: the run that holds its concurrency group; stored with the group's members (``concurrency.py``).
    """

    id: str
    kind: str
    name: str
    project: str
    pipeline_id: str
    status: Status
    graph: Graph
    variables: dict[str, str]
    reason: str = ""
    trigger: str = "manual"
    triggered_by: str = ""
    triggered_by_id: str = ""
    checkout: dict[str, Any] | None = None  # engine/checkouts.py
    branch: str = ""
    commit_sha: str = ""
    tag: str = ""
    definition: str = ""
    rerun_of: str = ""
    parent_gate: str = ""
    depth: int = 0
    cancel_reason: str = ""
    cleanup_until: int = 0
    forced: bool = False
    paused_at: int = 0
    paused_by: str = ""
    unsettled: bool = False
    waits_for: str = ""
    version: int = field(default=0, compare=False)
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    jobs: list[Job] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    condition_steps: int = field(default=SETTLE_STEPS, compare=False)
    agenda: OrderedDict[int, Job] = field(default_factory=OrderedDict)
    _named: dict[str, Job] = field(default_factory=dict)
    _dependents: dict[str, list[Job]] = field(default_factory=dict)
    _steps: dict[str, tuple[Job, Step]] = field(default_factory=dict)

    @property
    def job_count(self) -> int:
        """The number of its jobs."""
        return len(self.jobs)

    def recount(self) -> None:
        """Recompute the values that :meth:`move` updates, after the run was loaded or extended."""
        self.counts = Counts(job.status for job in self.jobs)
        if self.unsettled:
            self.agenda = OrderedDict((job.index, job) for job in self.jobs if not job.status.over)
        self._named = {job.name: job for job in self.jobs}
        self._steps = {step.id: (job, step) for job in self.jobs for step in job.steps}
        self._dependents = {}
        for job in self.jobs:
            job.recount()
            needs = set(job.spec.depends_on)
            job.unmet = sum(not self._named[need].status.over for need in needs)
            for need in needs:
                self._dependents.setdefault(need, []).append(job)

    def move(self, job: Job, status: Status) -> Status:
        """Change a job's status; returns the previous one."""
        previous, job.status = job.status, status
        self.counts.move(previous, status)
        if status.over and not previous.over:
            for dependent in self._dependents.get(job.name, ()):
                dependent.unmet -= 1
                if not dependent.unmet:
                    self.agenda.setdefault(dependent.index, dependent)
        return previous

    @property
    def jobs_over(self) -> bool:
        """Whether all its jobs are over."""
        return self.counts.completed == self.counts.total

    @property
    def dirty(self) -> bool:
        """Whether its work tree differs from its commit."""
        return bool(self.checkout and self.checkout.get("dirty"))

    @property
    def cancelling(self) -> bool:
        """Whether the run is being cancelled."""
        return bool(self.cancel_reason)

    def job(self, name: str) -> Job:
        """The job with this name. Raises KeyError."""
        return self._named[name]

    def find_step(self, step_id: str) -> tuple[Job, Step]:
        """A step by its id, with its job."""
        return self._steps[step_id]

    def node(self, job: Job, step: Step) -> str:
        """The step's name on the run stream: prefixed by the job where there are several (decisions.md)."""
        return step.name if len(self.jobs) == 1 else f"{job.name}/{step.name}"

    def outputs(self) -> dict[str, Any]:
        """The outputs of all its jobs; for equal names that of the later job."""
        merged: dict[str, Any] = {}
        for job in self.jobs:
            merged.update(job.outputs())
        return merged
