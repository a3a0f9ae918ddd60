"""Runs, jobs, steps and attempts as the planner sees them. The planner changes nothing here; the service does."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pilothouse.engine.graph import Graph
from pilothouse.engine.graph import Job as JobSpec
from pilothouse.engine.graph import Step as StepSpec


class Status(StrEnum):
    """The life of a run, job, step or attempt (design.md)."""

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
        """Whether nothing more will happen."""
        return self in _OVER

    @property
    def bad(self) -> bool:
        """Whether it counts as a failure of what it belongs to."""
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
    """One try of a step under one lease; its id is the ``step_run_id`` and the fence.

    ``selector`` is the JSON of the labels it asks for; ``lines`` and ``percent`` what its agent has sent so far.
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


@dataclass(slots=True)
class Step:
    """One step of a job.

    ``failures`` counts failed tries of this round of the job; ``lost``, ``unstarted`` and ``attempts`` count over
    all rounds. ``current`` is the attempt that is queued or runs; ``stopping`` the status it is being stopped for.
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
    not_before: int = 0
    started_at: int = 0
    finished_at: int = 0


@dataclass(slots=True)
class Job:
    """One job. ``round`` counts its starts from the first step; ``agent_id`` holds its workspace.

    Times in ms, 0: none. ``deadline``: when it has run for too long, from the start of its first step on;
    ``queue_deadline``: when it has waited for that for too long. ``stopping``: the status it will have once its
    steps that clean up are over; ``cleanup_until``: when they are cut off, and in a cancelled run not 0 in
    every job of which it is decided what the cancel means to it.
    """

    id: str
    index: int
    name: str
    status: Status
    reason: str = ""
    round: int = 1
    lost: int = 0
    workspace: str = ""
    agent_id: str = ""
    fresh: bool = True
    not_before: int = 0
    deadline: int = 0
    queue_deadline: int = 0
    cleanup_until: int = 0
    stopping: str = ""
    kept_from: str = ""
    started_at: int = 0
    finished_at: int = 0
    steps: list[Step] = field(default_factory=list)

    def outputs(self) -> dict[str, Any]:
        """The outputs of all its steps; of two with one name the later step's."""
        merged: dict[str, Any] = {}
        for step in self.steps:
            merged.update(step.outputs)
        return merged

    def counts(self) -> dict[str, int]:
        """How its steps stand."""
        return _counts([step.status for step in self.steps])

    @property
    def begun(self) -> bool:
        """Whether an agent has started a step of it in this run."""
        return self.round > 1 or any(step.started_at and step.attempts for step in self.steps)

    @property
    def at_step(self) -> int:
        """The index of the first step that is not over; of the last one if all are."""
        return next((step.index for step in self.steps if not step.status.over), max(len(self.steps) - 1, 0))


@dataclass(slots=True)
class Run:
    """One run with all its jobs and steps. ``definition``: the head of the saved spec it was made from, if it was.

    ``cleanup_until`` (ms): how long a cancelled run may clean up; ``forced``: it may not, or no longer.
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
    checkout: dict[str, Any] | None = None  # engine/checkouts.py
    branch: str = ""
    commit_sha: str = ""
    tag: str = ""
    definition: str = ""
    rerun_of: str = ""
    cancel_reason: str = ""
    cleanup_until: int = 0
    forced: bool = False
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    jobs: list[Job] = field(default_factory=list)

    @property
    def dirty(self) -> bool:
        """Whether its work tree differs from its commit."""
        return bool(self.checkout and self.checkout.get("dirty"))

    @property
    def cancelling(self) -> bool:
        """Whether somebody wants it stopped."""
        return bool(self.cancel_reason)

    def job(self, name: str) -> Job:
        """The job of that name."""
        return next(job for job in self.jobs if job.name == name)

    def job_spec(self, job: Job) -> JobSpec:
        """What the graph says of a job."""
        return self.graph.jobs[job.index]

    def step_spec(self, job: Job, step: Step) -> StepSpec:
        """What the graph says of a step."""
        return self.graph.jobs[job.index].steps[step.index]

    def node(self, job: Job, step: Step) -> str:
        """The step's name on the run stream: prefixed by the job where there are several (decisions.md)."""
        return step.name if len(self.jobs) == 1 else f"{job.name}/{step.name}"

    def counts(self) -> dict[str, int]:
        """How its jobs stand."""
        return _counts([job.status for job in self.jobs])

    def outputs(self) -> dict[str, Any]:
        """The outputs of all its jobs; of two with one name the later job's."""
        merged: dict[str, Any] = {}
        for job in self.jobs:
            merged.update(job.outputs())
        return merged


def _counts(statuses: list[Status]) -> dict[str, int]:
    return {
        "total": len(statuses),
        "completed": sum(1 for s in statuses if s.over),
        "failed": sum(1 for s in statuses if s.bad),
        "running": statuses.count(Status.RUNNING),
    }
