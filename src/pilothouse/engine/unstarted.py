"""The first step run of every step: it has an id from the creation of its run, and a row from its hand-out; pure."""

from __future__ import annotations

from pilothouse.engine import ids
from pilothouse.engine.model import Attempt, Job, Run, Status, Step


def first_attempt(run: Run, job: Job, step: Step, status: Status) -> Attempt:
    """The step's first attempt."""
    id = ids.first_step_run_id(run.id, job.index, step.index)
    return Attempt(id=id, step_id=step.id, number=1, status=status)


def unstarted(run: Run, job: Job, step: Step) -> Attempt | None:
    """The step run of a step that has had no attempt: it waits, or has ended with its step.

    ``None`` where there are attempts, or an earlier run did the step.
    """
    if step.attempts or step.kept:
        return None
    attempt = first_attempt(run, job, step, step.status)
    if step.status.over:
        attempt.error, attempt.finished_at = step.reason, step.finished_at
    return attempt


def find_unstarted(run: Run, step_run_id: str) -> tuple[Job, Step, Attempt] | None:
    """The step run with this id among those of steps that have had no attempt."""
    place = ids.place_of(step_run_id)
    if place is None or place[0] >= len(run.jobs) or place[1] >= len(run.jobs[place[0]].steps):
        return None
    job = run.jobs[place[0]]
    step = job.steps[place[1]]
    attempt = unstarted(run, job, step)
    return (job, step, attempt) if attempt is not None and attempt.id == step_run_id else None
