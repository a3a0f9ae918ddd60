"""Step runs without a row: every step has a step run from the creation of its run; pure."""

from __future__ import annotations

from pilothouse.engine import ids
from pilothouse.engine.model import Attempt, Job, Run, Status, Step


def first_attempt(run: Run, job: Job, step: Step, status: Status) -> Attempt:
    """The step's first attempt."""
    id = ids.first_step_run_id(run.id, job.index, step.index)
    return Attempt(id=id, step_id=step.id, number=1, status=status)


def unstarted(run: Run, job: Job, step: Step) -> Attempt | None:
    """The step run of a step without an attempt, with the status of the step.

    ``None`` if there are attempts, or if the step was kept from an earlier run.
    """
    if step.attempts or step.kept:
        return None
    attempt = first_attempt(run, job, step, step.status)
    if step.status.over:
        attempt.error, attempt.finished_at = step.reason, step.finished_at
    return attempt


def find_unstarted(run: Run, step_run_id: str) -> tuple[Job, Step, Attempt] | None:
    """The step run with this id, if it belongs to a step without an attempt."""
    place = ids.place_of(step_run_id)
    if place is None or place[0] >= len(run.jobs) or place[1] >= len(run.jobs[place[0]].steps):
        return None
    job = run.jobs[place[0]]
    step = job.steps[place[1]]
    attempt = unstarted(run, job, step)
    return (job, step, attempt) if attempt is not None and attempt.id == step_run_id else None
