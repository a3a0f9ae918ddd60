"""The planner: computes decisions from the state of a run; pure.

The transitions apply the decisions and plan again until there are none. Planning is idempotent, so it can be
interrupted at any point, also between two decisions. Cancels and timeouts of jobs are planned in ``cleanup.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine import cleanup
from pilothouse.engine.contexts import wanted
from pilothouse.engine.decisions import (
    CheckGate,
    Decision,
    FinishJob,
    FinishRun,
    FinishStep,
    GiveUpWaiting,
    OpenGate,
    QueueStep,
    RestartJob,
    StartJob,
    StartRun,
    StopAttempt,
)
from pilothouse.engine.gates.model import HOLD
from pilothouse.engine.graph import Retry
from pilothouse.engine.model import JOB_ENDED, LOST, MAX_LOST_RERUNS, MAX_UNSTARTED, Job, Run, Status, Step
from pilothouse.expressions import ExpressionError, cleans_up
from pilothouse.wire.durations import duration_text

REMOVED = "it was deleted before it started"
"""The reason of steps that were deleted."""

MAX_NAMED = 20
"""So many failed jobs are named in the reason of a run."""


def decide_run(run: Run, now: int) -> list[Decision]:
    """The decisions on the run as a whole at time ``now`` (ms); empty if it has to wait or is over."""
    if run.status.over or _held(run):
        return []
    winding_down = run.cancelling and not cleanup.cleaning(run, now)
    if run.status is Status.PENDING and not winding_down:
        return [StartRun()]
    if not run.jobs_over:
        return []
    return [FinishRun(Status.CANCELLED, run.cancel_reason)] if winding_down else [_finish_run(run)]


def _held(run: Run) -> bool:
    """Whether it is paused, or waits in its concurrency group."""
    return (bool(run.paused_at) or bool(run.waits_for)) and not run.cancelling


def _finish_run(run: Run) -> FinishRun:
    if run.cancelling:
        return FinishRun(Status.CANCELLED, run.cancel_reason)
    bad = [job.name for job in run.jobs if job.status.bad]
    if bad:
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        return FinishRun(Status.FAILED, f"failed: {', '.join(bad[:MAX_NAMED])}{more}")
    cancelled = next((job for job in run.jobs if job.status is Status.CANCELLED), None)
    if cancelled is not None:
        return FinishRun(Status.CANCELLED, run.cancel_reason or f"{cancelled.name}: {cancelled.reason}")
    return FinishRun(Status.SUCCEEDED, "")


def decide_job(run: Run, job: Job, now: int) -> list[Decision]:
    """The decisions on one job of an active run; empty if it has to wait or is over."""
    if job.status.over or _held(run):
        return []
    if run.cancelling and not cleanup.cleaning(run, now):
        return cleanup.wind_down(run, job)
    if job.status is Status.PENDING:
        if job.stopping:  # it was cancelled before it started
            return [FinishJob(job, Status(job.stopping), cleanup.stop_reason(run, job))]
        return _pending_job(run, job)
    if run.cancelling and not job.cleanup_until:
        return cleanup.cancel_job(run, job)
    if job.stopping:
        return cleanup.cut_off(run, job) if now >= job.cleanup_until else _next_step(run, job, now)
    if job.queue_deadline and now >= job.queue_deadline and not job.held_at:
        allowed = duration_text(job.spec.queue_timeout)
        return [GiveUpWaiting(job, f"the job waited longer than its queueTimeout of {allowed}")]
    # In runs of the first release, jobs have a deadline before they have started.
    if job.deadline and now >= job.deadline and job.begun and not job.held_at:
        return cleanup.time_out_job(run, job)
    if job.held_at and (due := _due_gate(job, now)):
        return [due]
    if job.not_before > now:
        return []
    return _next_step(run, job, now)


def _pending_job(run: Run, job: Job) -> list[Decision]:
    spec = job.spec
    if job.stopping:  # replaced in its concurrency group
        return [FinishJob(job, Status(job.stopping), job.reason)]
    if run.cancelling and not cleans_up(spec.when):
        return [FinishJob(job, Status.CANCELLED, run.cancel_reason)]
    if job.unmet or job.waits_for:
        return []
    needs = [run.job(name) for name in spec.depends_on]
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
    """The outcome of a job's dependencies; ``failed``: those that did not succeed."""
    if run.cancelling:
        return "cancelled"
    if not failed:
        return "success"
    return "failure" if any(need.status is not Status.SKIPPED for need in failed) else "skipped"


# -- the steps of a job -----------------------------------------------------------------------------------


def _next_step(run: Run, job: Job, now: int) -> list[Decision]:
    skipped: list[Decision] = []
    # A job that is being stopped also waits for background steps that are being stopped.
    for step in job.unfinished if job.stopping else job.awaited:
        if _runs_beside(job, step):
            continue
        if step.status is not Status.PENDING:
            return skipped
        if skipped and job.step_spec(step).when.strip():
            return skipped  # a condition may depend on steps that were just skipped
        failing = job.failing if job.failing and job.failing.index < step.index else None
        decision = _pending_step(run, job, step, failing, now)
        if not isinstance(decision, FinishStep) or _decides(job, decision.status):
            return [*skipped, decision] if decision else skipped
        skipped.append(decision)
    if skipped:
        return skipped
    beside = job.background
    return _stop_beside(job, beside) if beside else [_end_of_job(run, job, job.failing)]


def _decides(job: Job, status: Status) -> bool:
    """Whether what comes next depends on this end of a step."""
    return status.bad or (status is Status.CANCELLED and not job.stopping)


def _runs_beside(job: Job, step: Step) -> bool:
    """Whether the job continues while this step runs: it is a background step that is not being stopped early."""
    if step.status is not Status.RUNNING or (job.stopping and step.stopping):
        return False
    return job.step_spec(step).background


def _due_gate(job: Job, now: int) -> CheckGate | None:
    """The open gate, if its deadline has come; also where a background step before it waits to be tried again."""
    for step in job.awaited:
        if step.current and job.step_spec(step).gate:
            return CheckGate(job, step) if step.deadline and now >= step.deadline else None
    return None


def _pending_step(run: Run, job: Job, step: Step, failing: Step | None, now: int) -> Decision | None:
    """The decision on the next step of a job; ``None``: its next attempt has to wait."""
    spec = job.step_spec(step)
    if spec.removed:
        return FinishStep(job, step, Status.SKIPPED, REMOVED)
    if step.index and job.spec.guard and job.steps[0].status is not Status.SUCCEEDED:
        return _left_out(run, job, step, job.steps[0])
    if spec.background and step.failures and step.not_before and job.own_steps_over:
        return FinishStep(job, step, Status.FAILED, "its last try failed, and its job has ended")
    outcome = "failure" if failing else "success"
    if job.stopping:
        outcome = "cancelled" if job.stopping == Status.CANCELLED else "failure"
    # Attempts after the first need no check of the condition, unless the job is being stopped.
    if job.stopping or not (step.attempts and step.not_before):
        try:
            if not wanted(spec.when, outcome, run, job, step):
                return _left_out(run, job, step, failing)
        except ExpressionError as error:
            return FinishStep(job, step, Status.FAILED, f"when: {error}")
    if step.not_before > now:
        return None
    if not spec.gate:
        return QueueStep(job, step)
    if job.stopping:
        return _left_out(run, job, step, failing)
    if run.cancelling:  # not skipped: nobody has approved what comes next
        return FinishStep(job, step, Status.CANCELLED, run.cancel_reason)
    return OpenGate(job, step)


def _left_out(run: Run, job: Job, step: Step, failing: Step | None) -> FinishStep:
    if job.stopping:
        # A gate is not skipped: nobody has approved what comes next, and a retry goes on after skipped steps.
        cancelled = job.stopping == Status.CANCELLED or job.step_spec(step).gate
        status = Status.CANCELLED if cancelled else Status.SKIPPED
        return FinishStep(job, step, status, cleanup.stop_reason(run, job))
    why = f"when is false: {job.step_spec(step).when}"
    return FinishStep(
        job, step, Status.SKIPPED, f"{failing.name} {_words(failing.status)}" if failing else why
    )


def _stop_beside(job: Job, beside: list[Step]) -> list[Decision]:
    """Stop background steps, since all other steps are over; not if there are only background steps."""
    if not job.own_steps_over:
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
    again = may_retry(job.spec.retry, job.round - job.lost)  # restarts because of a lost agent do not count
    decided = job.step_spec(failing).gate == HOLD
    if again is not None and not failing.reason.startswith(LOST) and not run.cancelling and not decided:
        return RestartJob(job, reason, again)
    return FinishJob(job, Status.FAILED, reason)


def may_retry(retry: Retry | None, tries: int) -> int | None:
    """The delay in ms before the next try, or ``None`` if none is left."""
    if retry is None or tries >= retry.max_attempts:
        return None
    return round(retry.delay * 1000)


# -- steps after an attempt -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Again:
    """Try the step (``job``: the whole job) again after ``delay`` ms."""

    delay: int = 0
    job: bool = False


def after_failure(run: Run, job: Job, step: Step, now: int) -> Again | None:
    """Whether a failed or timed out step is tried again; not what people have decided, or not decided in time.

    ``step.failures`` includes this failure.
    """
    if job.step_spec(step).gate == HOLD:
        return None
    delay = may_retry(job.step_spec(step).retry, step.failures)
    if delay is None or not _in_time(run, job, now + delay):
        return None
    return Again(delay)


def after_loss(run: Run, job: Job, step: Step, started: bool, now: int) -> Again | None:
    """Whether a lost attempt is tried again: always if it never started, otherwise according to ``onLost``.

    ``step.lost`` and ``job.lost`` do not include this loss.
    """
    if not _in_time(run, job, now):
        return None
    if not started:
        return Again() if step.unstarted < MAX_UNSTARTED else None
    step_says = job.step_spec(step).on_lost
    if step_says == "rerun":
        return Again() if step.lost < MAX_LOST_RERUNS else None
    if not step_says and job.spec.on_lost == "rerun" and not (run.cancelling or job.stopping):
        return Again(job=True) if job.lost < MAX_LOST_RERUNS else None
    return None


def _in_time(run: Run, job: Job, then: int) -> bool:
    """Whether an attempt at that time is within the time limit of the job's cleanup."""
    limit = cleanup.limit(run, job)
    return limit is None or then < limit


def _words(status: Status) -> str:
    return {
        Status.TIMED_OUT: "timed out",
        Status.SKIPPED: "was skipped",
        Status.CANCELLED: "was cancelled",
    }.get(status, status.value)
