"""Runs of every kind (decisions.md, native routes)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from pilothouse.wire.rest.base import Answer, Count, Id, Pagination, Time
from pilothouse.wire.rest.bodies import Body
from pilothouse.wire.rest.tests import TestCounts

RunStatus = Literal[
    "pending", "queued", "running", "succeeded", "failed", "cancelled", "timed_out", "skipped"
]
"""The status of a run, job, step or attempt."""


class CancelRun(Body):
    """``reason``: why the run is cancelled; ``force``: immediately, without cleanup steps and jobs."""

    reason: str = Field("", max_length=500)
    force: bool = False

    example: ClassVar[Any] = {"reason": "wrong branch", "force": False}


class RerunRun(Body):
    """``from``: ``start`` for the whole run, or ``failed`` to keep the steps that succeeded."""

    model_config = ConfigDict(populate_by_name=True)
    start: Literal["start", "failed"] = Field("start", alias="from")

    example: ClassVar[Any] = {"from": "start"}


class RunSummary(Answer):
    """A run without its jobs.

    ``reason``: why it failed or waits; ``rerun_of``: the run that this one repeats; ``parent_gate``: the gate of
    the parent run; ``cleanup_until``: while it is being cancelled, when cleanup ends; ``duration`` in seconds.
    """

    id: Id
    kind: str
    name: str
    status: RunStatus
    reason: str
    project: Id
    pipeline_id: Id
    trigger: str
    triggered_by: str
    branch: str
    commit_sha: str
    tag: str
    dirty: bool
    rerun_of: Id | None
    parent_gate: Id | None
    paused_at: Time | None
    cleanup_until: Time | None
    created_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    duration: Annotated[float, Field(ge=0)] | None

    example: ClassVar[Any] = {
        "id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
        "kind": "pipeline",
        "name": "hello",
        "status": "running",
        "reason": "",
        "project": "019a7b1e-0000-7000-8000-000000000001",
        "pipeline_id": "019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10",
        "trigger": "manual",
        "triggered_by": "admin",
        "branch": "main",
        "commit_sha": "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "tag": "",
        "dirty": False,
        "rerun_of": None,
        "parent_gate": None,
        "paused_at": None,
        "cleanup_until": None,
        "created_at": "2026-01-10T14:23:45.000Z",
        "started_at": "2026-01-10T14:23:45.010Z",
        "finished_at": None,
        "duration": None,
    }


PAUSED: dict[str, Any] = {
    **RunSummary.example,
    "paused_at": "2026-01-10T14:24:00.000Z",
    "reason": "paused by alice",
}
RERUN: dict[str, Any] = {
    **RunSummary.example,
    "id": "019a7b1f-1c0a-7c3e-9a51-0c4b8f1f2a10",
    "rerun_of": RunSummary.example["id"],
}


class RunList(Answer):
    """A page of runs, newest first."""

    runs: list[RunSummary]
    pagination: Pagination

    example: ClassVar[Any] = {"runs": [RunSummary.example], "pagination": Pagination.example}


class LogChunk(Answer):
    """Up to 200 lines of one attempt, stored at ``time`` (Unix milliseconds); ``first``: the number of the first.

    ``stderr``: the indices in ``lines`` of lines of standard error. ``message`` instead of lines: some are missing.
    The last object of a log has only ``cursor``, from which the run can be followed, and the run's ``status``.
    """

    job: str = ""
    step: str = ""
    step_run_id: Id = Field(default_factory=str)  # a default in the schema would be no UUID
    attempt: Count = 0
    time: Count = 0
    first: Count = 0
    lines: list[str] = Field(default_factory=list)
    stderr: list[int] = Field(default_factory=list)
    message: str = ""
    cursor: str = ""
    status: str = ""

    example: ClassVar[Any] = {
        "job": "build",
        "step": "compile",
        "step_run_id": "019a7b1e-7000-7a00-8a51-0c4b8f1f2a10",
        "attempt": 1,
        "time": 1768055025120,
        "first": 1,
        "lines": ["compiling", "ok"],
        "stderr": [],
    }


class Attempt(Answer):
    """One attempt of a step.

    ``reason``: what it waits for; ``lines`` counts its log lines; ``earlier_run``: it belongs to the run that this
    one repeats.
    """

    step_run_id: Id
    number: Annotated[int, Field(ge=1)]
    status: RunStatus
    exit_code: int
    error: str
    reason: str
    agent_id: str | None
    lines: Count
    earlier_run: bool
    queued_at: Time | None
    started_at: Time | None
    finished_at: Time | None

    example: ClassVar[Any] = {
        "step_run_id": "019a7b1e-7000-7a00-8a51-0c4b8f1f2a10",
        "number": 1,
        "status": "running",
        "exit_code": 0,
        "error": "",
        "reason": "",
        "agent_id": "local",
        "lines": 2,
        "earlier_run": False,
        "queued_at": "2026-01-10T14:23:45.010Z",
        "started_at": "2026-01-10T14:23:45.120Z",
        "finished_at": None,
    }


class Step(Answer):
    """A step with its attempts.

    ``node``: its name in the run stream; ``gate``: the kind of gate, null for work; ``kept``: it succeeded in an
    earlier run and was not run again; ``progress`` in percent. ``outputs_omitted``, ``attempts_omitted``: the run is
    too large to show all outputs and earlier attempts; the view of this step alone has them.
    """

    id: Id
    name: str
    node: str
    uses: str
    background: bool
    gate: str | None
    status: RunStatus
    reason: str
    outputs: dict[str, Any]
    outputs_omitted: bool = False
    progress: Annotated[int, Field(ge=0, le=100)]
    kept: bool
    continue_on_error: bool
    started_at: Time | None
    finished_at: Time | None
    attempts: list[Attempt]
    attempts_omitted: Count = 0

    example: ClassVar[Any] = {
        "id": "019a7b1e-6c0c-7000-8a51-0c4b8f1f2a10",
        "name": "compile",
        "node": "compile",
        "uses": "shell",
        "background": False,
        "gate": None,
        "status": "running",
        "reason": "",
        "outputs": {},
        "progress": 40,
        "kept": False,
        "continue_on_error": False,
        "started_at": "2026-01-10T14:23:45.120Z",
        "finished_at": None,
        "attempts": [Attempt.example],
    }


class Job(Answer):
    """A job with its steps.

    ``stopping``: why its remaining steps are being skipped; ``round``: how often the job was started;
    ``begun_at``: when its first step was started on an agent; ``waiting_for``: why none has been yet.
    ``steps_omitted``: so many of its last steps are not shown, since the run is too large; the view of this job alone
    has them.
    """

    id: Id
    name: str
    status: RunStatus
    reason: str
    stopping: str | None
    needs: list[str]
    round: Annotated[int, Field(ge=1)]
    agent_id: str | None
    started_at: Time | None
    begun_at: Time | None
    waiting_for: str | None
    finished_at: Time | None
    steps: list[Step]
    steps_omitted: Count = 0

    example: ClassVar[Any] = {
        "id": "019a7b1e-6c0b-7000-8a51-0c4b8f1f2a10",
        "name": "build",
        "status": "running",
        "reason": "",
        "stopping": None,
        "needs": [],
        "round": 1,
        "agent_id": "local",
        "started_at": "2026-01-10T14:23:45.010Z",
        "begun_at": "2026-01-10T14:23:45.120Z",
        "waiting_for": None,
        "finished_at": None,
        "steps": [Step.example],
    }


class Run(RunSummary):
    """A run with its variables and jobs.

    ``tests``: the counts of its tests, null without a report (``getRunTests`` has more); ``artifacts``: their number.
    """

    variables: dict[str, str]
    tests: TestCounts | None
    artifacts: Count
    jobs: list[Job]

    example: ClassVar[Any] = {
        **RunSummary.example,
        "variables": {"greeting": "hello"},
        "tests": TestCounts.example,
        "artifacts": 1,
        "jobs": [Job.example],
    }
