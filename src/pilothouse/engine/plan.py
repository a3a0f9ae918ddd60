"""What a run should do next: state in, decisions out, no I/O.

The service applies the decisions and asks again until there are none. Asking twice gives the same answer, so a
plan survives any interruption. What a cancel and a job's timeout leave to do is in ``cleanup.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine import cleanup
from pilothouse.engine.contexts import wanted
from pilothouse.engine.decisions import (
    Decision,
    FinishJob,
    FinishRun,
    FinishStep,
    GiveUpWaiting,
    QueueStep,
    RestartJob,
    StartJob,
    StartRun,
    StopAttempt,
)
from pilothouse.engine.graph import Retry
from pilothouse.engine.model import JOB_ENDED, LOST, MAX_LOST_RERUNS, MAX_UNSTARTED, Job, Run, Status, Step
from pilothouse.expressions import ExpressionError, cleans_up
from pilothouse.wire.durations import duration_text


def decide(run: Run, now: int) -> list[Decision]:
    """Everything that can be decided of the run at time ``now`` (ms); empty when it has to wait."""
    if run.status.over:
        return []
    if run.cancelling and not cleanup.cleaning(run, now):
        return cleanup.wind_down(run)
    if run.status is Status.PENDING:
        return [StartRun()]
    decisions = [decision for job in run.jobs for decision in decide_job(run, job, now)]
    if not decisions and all(job.status.over for job in run.jobs):
        return [_finish_run(run)]
    return decisions


def _finish_run(run: Run) -> FinishRun:
    if run.cancelling:
        return FinishRun(Status.CANCELLED, run.cancel_reason)
    bad = [job.name for job in run.jobs if job.status.bad]
    if bad:
        return FinishRun(Status.FAILED, f"failed: {', '.join(bad)}")
    if any(job.status is Status.CANCELLED for job in run.jobs):
        return FinishRun(Status.CANCELLED, run.cancel_reason)
    return FinishRun(Status.SUCCEEDED, "")


def decide_job(run: Run, job: Job, now: int) -> list[Decision]:
    """What can be decided of one job of a run that goes on; empty when it has to wait or is over."""
    if job.status.over:
        return []
    if job.status is Status.PENDING:
        return _pending_job(run, job)
    if run.cancelling and not job.cleanup_until:
        return cleanup.cancel_job(run, job)
    if job.stopping:
        return cleanup.cut_off(run, job) if now >= job.cleanup_until else _next_step(run, job, now)
    if job.queue_deadline and now >= job.queue_deadline:
        allowed = duration_text(run.job_spec(job).queue_timeout)
        return [GiveUpWaiting(job, f"the job waited longer than its queueTimeout of {allowed}")]
    # Runs of the first release have a deadline before they have begun.
    if job.deadline and now >= job.deadline and job.begun:
        return cleanup.time_out_job(run, job)
    if job.not_before > now:
        return []
    return _next_step(run, job, now)


def _pending_job(run: Run, job: Job) -> list[Decision]:
    spec = run.job_spec(job)
    if run.cancelling and not cleans_up(spec.when):
        return [FinishJob(job, Status.CANCELLED, run.cancel_reason)]
    needs = [run.job(name) for name in spec.depends_on]
    if not all(need.status.over for need in needs):
        return []
    failed = [need for need in needs if need.status is not Status.SUCCEEDED]
    try:
        if wanted(spec.when, _outcome_before(run, failed), run, job):
            return [StartJob(job)]
    except ExpressionError as error:
        return [FinishJob(job, Status.FAILED, f"when: {error}")]
    if run.cancelling:
        return [FinishJob(job, Status.CANCELLED, run.cancel_reason)]
    if failed:
        return [FinishJob(job, Status.SKIPPED, f"{failed[0].name} {_words(failed[0].status)}")]
    return [FinishJob(job, Status.SKIPPED, f"when is false: {spec.when}")]


def _outcome_before(run: Run, failed: list[Job]) -> str:
    """Of what a job depends on; ``failed``: all of it that did not succeed."""
    if run.cancelling:
        return "cancelled"
    if not failed:
        return "success"
    return "failure" if any(need.status is not Status.SKIPPED for need in failed) else "skipped"


# -- the steps of a job -----------------------------------------------------------------------------------


def _next_step(run: Run, job: Job, now: int) -> list[Decision]:
    failing: Step | None = None
    beside: list[Step] = []
    skipped: list[Decision] = []
    for step in job.steps:
        if step.status.over:
            failing = failing or (step if _fails_job(run, job, step) else None)
            continue
        if _runs_beside(run, job, step):
            beside.append(step)
            continue
        if step.status is not Status.PENDING or (skipped and run.step_spec(job, step).when.strip()):
            return skipped  # a condition may look at what was just skipped
        decision = _pending_step(run, job, step, failing, now)
        if not isinstance(decision, FinishStep) or decision.status.bad:
            return [*skipped, decision] if decision else skipped
        skipped.append(decision)
    if skipped:
        return skipped
    return _stop_beside(run, job, beside) if beside else [_end_of_job(run, job, failing)]


def _fails_job(run: Run, job: Job, step: Step) -> bool:
    if step.status.bad:
        return not run.step_spec(job, step).continue_on_error
    return step.status is Status.CANCELLED


def _runs_beside(run: Run, job: Job, step: Step) -> bool:
    """Whether the job goes on beside this step, since it runs in the background and is not being stopped early."""
    if step.status is not Status.RUNNING or (job.stopping and step.stopping):
        return False
    return run.step_spec(job, step).background


def _pending_step(run: Run, job: Job, step: Step, failing: Step | None, now: int) -> Decision | None:
    """What becomes of the next step of a job; ``None``: its next try has to wait."""
    spec = run.step_spec(job, step)
    if spec.background and step.failures and step.not_before and not _others_left(run, job):
        return FinishStep(job, step, Status.FAILED, "its last try failed, and its job has ended")
    outcome = "failure" if failing else "success"
    if job.stopping:
        outcome = "cancelled" if job.stopping == Status.CANCELLED else "failure"
    # The condition of a try after the first has been met already, unless the job is being stopped.
    if job.stopping or not (step.attempts and step.not_before):
        try:
            if not wanted(spec.when, outcome, run, job, step):
                return _left_out(run, job, step, failing)
        except ExpressionError as error:
            return FinishStep(job, step, Status.FAILED, f"when: {error}")
    return QueueStep(job, step) if step.not_before <= now else None


def _others_left(run: Run, job: Job) -> bool:
    """Whether steps that do not run in the background are not over, or there are none in the whole job."""
    specs = run.job_spec(job).steps
    others = [step for step in job.steps if not specs[step.index].background]
    return not others or not all(step.status.over for step in others)


def _left_out(run: Run, job: Job, step: Step, failing: Step | None) -> FinishStep:
    if job.stopping:
        status = Status.CANCELLED if job.stopping == Status.CANCELLED else Status.SKIPPED
        return FinishStep(job, step, status, cleanup.stop_reason(run, job))
    why = f"when is false: {run.step_spec(job, step).when}"
    return FinishStep(
        job, step, Status.SKIPPED, f"{failing.name} {_words(failing.status)}" if failing else why
    )


def _stop_beside(run: Run, job: Job, beside: list[Step]) -> list[Decision]:
    """All other steps are over: background steps are stopped, unless there are no others at all."""
    if _others_left(run, job):
        return []
    return [StopAttempt(job, step, Status.SUCCEEDED, JOB_ENDED) for step in beside if not step.stopping]


def _end_of_job(run: Run, job: Job, failing: Step | None) -> Decision:
    if job.stopping:
        return FinishJob(job, Status(job.stopping), cleanup.stop_reason(run, job))
    if failing is None:
        return FinishJob(job, Status.SUCCEEDED, "")
    reason = f"{failing.name} {_words(failing.status)}"
    if failing.status is Status.CANCELLED:
        return FinishJob(job, Status.CANCELLED, failing.reason or reason)
    again = may_retry(run.job_spec(job).retry, job.round - job.lost)  # reruns for loss come on top
    if again is not None and not failing.reason.startswith(LOST) and not run.cancelling:
        return RestartJob(job, reason, again)
    return FinishJob(job, Status.FAILED, reason)


def may_retry(retry: Retry | None, tries: int) -> int | None:
    """The delay in ms before the next try, or ``None`` if the tries are used up."""
    if retry is None or tries >= retry.max_attempts:
        return None
    return round(retry.delay * 1000)


# -- what becomes of a step after an attempt --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Again:
    """The step is tried again after ``delay`` ms; where ``job``, the whole job is."""

    delay: int = 0
    job: bool = False


def after_failure(run: Run, job: Job, step: Step, now: int) -> Again | None:
    """Whether a step that failed (or timed out) is tried again. ``step.failures`` counts this failure."""
    delay = may_retry(run.step_spec(job, step).retry, step.failures)
    if delay is None or not _in_time(run, job, now + delay):
        return None
    return Again(delay)


def after_loss(run: Run, job: Job, step: Step, started: bool, now: int) -> Again | None:
    """Whether a lost attempt is tried again: always if it never started, else as ``onLost`` says.

    ``step.lost`` and ``job.lost`` do not count this loss yet.
    """
    if not _in_time(run, job, now):
        return None
    if not started:
        return Again() if step.unstarted < MAX_UNSTARTED else None
    step_says = run.step_spec(job, step).on_lost
    if step_says == "rerun":
        return Again() if step.lost < MAX_LOST_RERUNS else None
    if not step_says and run.job_spec(job).on_lost == "rerun" and cleanup.limit(run, job) is None:
        return Again(job=True) if job.lost < MAX_LOST_RERUNS else None
    return None


def _in_time(run: Run, job: Job, then: int) -> bool:
    """Whether a try at that time would not come after all work of the job is cut off."""
    limit = cleanup.limit(run, job)
    return limit is None or then < limit


def _words(status: Status) -> str:
    return {
        Status.TIMED_OUT: "timed out",
        Status.SKIPPED: "was skipped",
        Status.CANCELLED: "was cancelled",
    }.get(status, status.value)
