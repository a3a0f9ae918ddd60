"""The planning of a cancel or a job's timeout: stop running work, then run cleanup; pure.

After a cancel, cleanup consists of the jobs and steps whose ``when`` names ``always()`` or ``cancelled()`` and is
true; after a job's timeout, of those of its steps that run after a failure. Cleanup has a time limit that includes
waiting (``Run.cleanup_until``, ``Job.cleanup_until``), after which it is cancelled.
"""

from __future__ import annotations

from pilothouse.engine.contexts import wanted
from pilothouse.engine.decisions import Decision, FinishJob, KeepJob, StopAttempt, StopJob
from pilothouse.engine.model import Job, Run, Status, Step
from pilothouse.expressions import ExpressionError, cleans_up
from pilothouse.wire.durations import duration_text


def cleaning(run: Run, now: int) -> bool:
    """Whether a cancelled run still has time for cleanup."""
    return run.cancelling and not run.forced and now < run.cleanup_until


def limit(run: Run, job: Job) -> int | None:
    """The time (ms) at which cleanup of this job ends; ``None`` if it was not stopped, and in a pause."""
    ends = [job.cleanup_until] if job.stopping and not job.held_at else []
    if run.cancelling:
        ends.append(0 if run.forced else run.cleanup_until)
    return min(ends, default=None)


def cancel_job(run: Run, job: Job) -> list[Decision]:
    """The effect of a cancel on a running job: it continues, runs its cleanup, or ends if it has not started.

    An open gate of it ends in any case.
    """
    stops = _stops(job, Status.CANCELLED, run.cancel_reason)
    if _goes_on(run, job):
        return [KeepJob(job), *(stop for stop in stops if job.step_spec(stop.step).gate)]
    if not job.begun:
        return end_job(
            job, Status.CANCELLED, run.cancel_reason, FinishJob(job, Status.CANCELLED, run.cancel_reason)
        )
    stops = [s for s in stops if job.step_spec(s.step).gate or not _goes_on(run, job, s.step)]
    return [StopJob(job, Status.CANCELLED), *stops]


def time_out_job(run: Run, job: Job) -> list[Decision]:
    """The job has exceeded its timeout: running steps are stopped, whatever their ``when``."""
    reason = _too_long(job)
    return [StopJob(job, Status.TIMED_OUT), *_stops(job, Status.TIMED_OUT, reason)]


def cancel_alone(run: Run, job: Job, reason: str) -> list[StopAttempt]:
    """What stops when this job is cancelled and its run is not: all running steps but those of its cleanup."""
    stops = _stops(job, Status.CANCELLED, reason)
    return [stop for stop in stops if job.step_spec(stop.step).gate or not _goes_on(run, job, stop.step)]


def stop_reason(run: Run, job: Job) -> str:
    """The reason for which the job's other steps do not run."""
    if job.stopping == Status.TIMED_OUT:
        return _too_long(job)
    return run.cancel_reason or job.reason


def _too_long(job: Job) -> str:
    return f"the job ran longer than its timeout of {duration_text(job.spec.timeout)}"


def cut_off(run: Run, job: Job) -> list[Decision]:
    """Stop the cleanup of a job that has timed out or was cancelled, since its time limit has passed."""
    if job.stopping == Status.TIMED_OUT:
        why = "the time limit of cleanup after the job's timeout has passed"
    else:
        why = stop_reason(run, job) + ("; the time limit of cleanup has passed" if job.begun else "")
    return end_job(job, Status.CANCELLED, why, FinishJob(job, Status(job.stopping), stop_reason(run, job)))


def wind_down(run: Run, job: Job) -> list[Decision]:
    """End a job of a cancelled run without (further) cleanup."""
    why = run.cancel_reason
    if run.cleanup_until and not run.forced:
        why += "; the time limit of cleanup has passed"
    status = Status(job.stopping) if job.stopping else Status.CANCELLED
    return end_job(job, Status.CANCELLED, why, FinishJob(job, status, stop_reason(run, job)))


def end_job(job: Job, status: Status, reason: str, end: Decision) -> list[Decision]:
    """Stop the running steps of a job, then ``end`` it; empty while waiting for reports of agents."""
    if any(step.current for step in job.unfinished):
        return list(_stops(job, status, reason))
    return [end]


def _stops(job: Job, status: Status, reason: str) -> list[StopAttempt]:
    current = (step for step in job.unfinished if step.current and not step.stopping)
    return [StopAttempt(job, step, status, reason) for step in current]


def _goes_on(run: Run, job: Job, step: Step | None = None) -> bool:
    """Whether a running job, or a step of it, is part of the cleanup of a cancelled run."""
    when = job.step_spec(step).when if step else job.spec.when
    try:
        return cleans_up(when) and wanted(when, "cancelled", run, job, step)
    except ExpressionError:
        return False
