"""What a run should do next: state in, decisions out, no I/O.

The service applies the decisions and asks again until there are none. Asking twice gives the same answer, so a
plan survives any interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.engine.expressions import ExpressionError, evaluate_when
from pilothouse.engine.model import LOST, MAX_LOST_RERUNS, MAX_UNSTARTED, Job, Run, Status, Step
from pilothouse.engine.spec import Retry


@dataclass(frozen=True, slots=True)
class StartRun:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Nothing is left to do."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class StartJob:
    """All it depends on is over, and its condition holds."""

    job: Job


@dataclass(frozen=True, slots=True)
class FinishJob:
    """The job ends; its remaining steps with it."""

    job: Job
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class RestartJob:
    """The job begins again from its first step, in a fresh workspace, after ``delay`` ms."""

    job: Job
    reason: str
    delay: int


@dataclass(frozen=True, slots=True)
class QueueStep:
    """The step's next attempt may be handed out."""

    job: Job
    step: Step


@dataclass(frozen=True, slots=True)
class FinishStep:
    """The step ends without (another) attempt."""

    job: Job
    step: Step
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """The step's running attempt is to be stopped; the agent reports when it is."""

    job: Job
    step: Step
    status: Status
    reason: str


Decision = StartRun | FinishRun | StartJob | FinishJob | RestartJob | QueueStep | FinishStep | StopAttempt


def decide(run: Run, now: int) -> list[Decision]:
    """Everything that can be decided of the run at time ``now`` (ms); empty when it has to wait."""
    if run.status.over:
        return []
    if run.cancelling:
        return _wind_down(run)
    if run.status is Status.PENDING:
        return [StartRun()]
    decisions = [decision for job in run.jobs for decision in decide_job(run, job, now)]
    if not decisions and all(job.status.over for job in run.jobs):
        return [_finish_run(run)]
    return decisions


def _finish_run(run: Run) -> FinishRun:
    bad = [job.name for job in run.jobs if job.status.bad]
    if bad:
        return FinishRun(Status.FAILED, f"failed: {', '.join(bad)}")
    if any(job.status is Status.CANCELLED for job in run.jobs):
        return FinishRun(Status.CANCELLED, run.cancel_reason)
    return FinishRun(Status.SUCCEEDED, "")


def _wind_down(run: Run) -> list[Decision]:
    decisions: list[Decision] = []
    for job in run.jobs:
        if job.status.over:
            continue
        stopping = _stop_steps(job, Status.CANCELLED, run.cancel_reason)
        decisions += stopping or []
        if stopping == []:
            decisions.append(FinishJob(job, Status.CANCELLED, run.cancel_reason))
    if not decisions and all(job.status.over for job in run.jobs):
        return [FinishRun(Status.CANCELLED, run.cancel_reason)]
    return decisions


def _stop_steps(job: Job, status: Status, reason: str) -> list[Decision] | None:
    """Stop what runs in a job. ``[]``: nothing runs any more; ``None``: still waiting for an agent."""
    for step in job.steps:
        if step.status in (Status.RUNNING, Status.QUEUED) and step.current:
            return None if step.stopping else [StopAttempt(job, step, status, reason)]
    return []


def decide_job(run: Run, job: Job, now: int) -> list[Decision]:
    """What can be decided of one job of a run that goes on; empty when it has to wait or is over."""
    if job.status.over:
        return []
    if job.status is Status.PENDING:
        return _pending_job(run, job)
    if job.deadline and now >= job.deadline:
        reason = f"the job ran longer than its timeout of {run.job_spec(job).timeout}"
        stopping = _stop_steps(job, Status.TIMED_OUT, reason)
        return [FinishJob(job, Status.TIMED_OUT, reason)] if stopping == [] else stopping or []
    if job.not_before > now:
        return []
    return _next_step(run, job, now)


def _pending_job(run: Run, job: Job) -> list[Decision]:
    spec = run.job_spec(job)
    needs = [run.job(name) for name in spec.depends_on]
    if not all(need.status.over for need in needs):
        return []
    failed = [need for need in needs if need.status is not Status.SUCCEEDED]
    outcome = "failure" if any(need.status is not Status.SKIPPED for need in failed) else "skipped"
    try:
        wanted = _wanted(spec.when, outcome if failed else "success", run, job)
    except ExpressionError as error:
        return [FinishJob(job, Status.FAILED, f"when: {error}")]
    if wanted:
        return [StartJob(job)]
    if failed:
        return [FinishJob(job, Status.SKIPPED, f"{failed[0].name} {_words(failed[0].status)}")]
    return [FinishJob(job, Status.SKIPPED, f"when is false: {spec.when}")]


def _next_step(run: Run, job: Job, now: int) -> list[Decision]:
    failing: Step | None = None
    for step in job.steps:
        if step.status.over:
            forgiven = step.status.bad and run.step_spec(job, step).continue_on_error
            if (step.status.bad or step.status is Status.CANCELLED) and not forgiven:
                failing = failing or step
            continue
        spec = run.step_spec(job, step)
        if step.status is not Status.PENDING or step.not_before > now:
            return []
        if step.attempts and step.not_before:  # a try after the first: its condition has been met already
            return [QueueStep(job, step)]
        try:
            wanted = _wanted(spec.when, "failure" if failing else "success", run, job, step)
        except ExpressionError as error:
            return [FinishStep(job, step, Status.FAILED, f"when: {error}")]
        if wanted:
            return [QueueStep(job, step)]
        why = f"{failing.name} {_words(failing.status)}" if failing else f"when is false: {spec.when}"
        return [FinishStep(job, step, Status.SKIPPED, why)]
    return [_end_of_job(run, job, failing)]


def _wanted(when: str, outcome: str, run: Run, job: Job, step: Step | None = None) -> bool:
    # Most steps have no condition, and what conditions see is as large as the run.
    return evaluate_when(when, context(run, job, step) if when.strip() else {}, outcome=outcome)


def _end_of_job(run: Run, job: Job, failing: Step | None) -> Decision:
    if failing is None:
        return FinishJob(job, Status.SUCCEEDED, "")
    reason = f"{failing.name} {_words(failing.status)}"
    if failing.status is Status.CANCELLED:
        return FinishJob(job, Status.CANCELLED, failing.reason or reason)
    again = may_retry(run.job_spec(job).retry, job.round - job.lost)  # reruns for loss come on top
    if again is not None and not failing.reason.startswith(LOST):
        return RestartJob(job, reason, again)
    return FinishJob(job, Status.FAILED, reason)


def may_retry(retry: Retry | None, tries: int) -> int | None:
    """The delay in ms before the next try, or ``None`` if the tries are used up."""
    if retry is None or tries >= retry.max_attempts:
        return None
    return int(retry.delay_seconds * 1000)


# -- what becomes of a step after an attempt --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Again:
    """The step is tried again after ``delay`` ms; where ``job``, the whole job is."""

    delay: int = 0
    job: bool = False


def after_failure(run: Run, job: Job, step: Step) -> Again | None:
    """Whether a step that failed (or timed out) is tried again. ``step.failures`` counts this failure."""
    if run.cancelling:
        return None
    delay = may_retry(run.step_spec(job, step).retry, step.failures)
    return Again(delay) if delay is not None else None


def after_loss(run: Run, job: Job, step: Step, started: bool) -> Again | None:
    """Whether a lost attempt is tried again: always if it never started, else as ``onLost`` says.

    ``step.lost`` and ``job.lost`` do not count this loss yet.
    """
    if run.cancelling:
        return None
    if not started:
        return Again() if step.unstarted < MAX_UNSTARTED else None
    step_says = run.step_spec(job, step).on_lost
    if step_says == "rerun":
        return Again() if step.lost < MAX_LOST_RERUNS else None
    if not step_says and run.job_spec(job).on_lost == "rerun":
        return Again(job=True) if job.lost < MAX_LOST_RERUNS else None
    return None


# -- what expressions see ---------------------------------------------------------------------------------


def context(run: Run, job: Job, step: Step | None = None) -> dict[str, Any]:
    """The roots of CEL expressions, without secrets (those are put in at the hand-out)."""
    spec = run.job_spec(job)
    roots: dict[str, Any] = {
        "variables": run.variables,
        "env": {**run.spec.runtime.env, **spec.env},
        "run": {
            "id": run.id,
            "name": run.name,
            "kind": run.kind,
            "trigger": run.trigger,
            "triggered_by": run.triggered_by,
            "branch": run.branch,
            "commit": run.commit_sha,
        },
        "job": {"id": job.id, "name": job.name, "round": job.round, "outputs": job.outputs()},
        "jobs": {other.name: _seen(other) for other in run.jobs},
        "step": {},
    }
    if step is not None:
        number = step.attempts if step.current else step.attempts + 1  # the one under way, or the next
        roots["step"] = {"id": step.id, "name": step.name, "attempt": number}
        roots["env"] = {**roots["env"], **run.step_spec(job, step).env}
    return roots


def _seen(job: Job) -> Mapping[str, Any]:
    steps = {s.name: {"status": s.status.value, "outputs": s.outputs} for s in job.steps}
    return {"status": job.status.value, "outputs": job.outputs(), "steps": steps}


def _words(status: Status) -> str:
    return {
        Status.TIMED_OUT: "timed out",
        Status.SKIPPED: "was skipped",
        Status.CANCELLED: "was cancelled",
    }.get(status, status.value)
