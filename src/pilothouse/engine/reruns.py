"""The jobs of new runs, and the jobs and steps that a rerun keeps from the previous run; pure."""

from __future__ import annotations

from collections.abc import Iterable

from pilothouse.engine import ids
from pilothouse.engine.gates.model import HOLD
from pilothouse.engine.graph import Graph
from pilothouse.engine.graph import Job as JobSpec
from pilothouse.engine.model import Job, Run, Status, Step

_DONE = (Status.SUCCEEDED, Status.SKIPPED)


def new_jobs(run_id: str, graph: Graph) -> list[Job]:
    """The jobs of a run that is not a rerun from the failed step."""
    return [new_job(run_id, index, spec) for index, spec in enumerate(graph.jobs)]


def kept_jobs(run_id: str, old: Run) -> list[Job]:
    """The jobs of a rerun from the failed step.

    Succeeded jobs are kept; failed jobs continue at the failed step. Jobs that directly or indirectly depend on a
    failed job run again, even if they succeeded, since their inputs may change. Approvals were given to the old run:
    whatever comes after one in the same job or a dependent job, and runs again, has to be approved again.
    """
    failed = {job.name for job in old.jobs if job.status not in _DONE}
    again = depending(old, failed)
    asking = _required(old, failed | again)
    return [
        _repeated(run_id, job) if job.name in again else _kept(run_id, job, ask=job.name in asking)
        for job in old.jobs
    ]


def _required(run: Run, names: set[str]) -> set[str]:
    """These jobs, and all on which they directly or indirectly depend."""
    needs = {spec.name: spec.depends_on for spec in run.graph.jobs}
    found, waiting = set(names), list(names)
    while waiting:
        fresh = [name for name in needs[waiting.pop()] if name not in found]
        found.update(fresh)
        waiting += fresh
    return found


def depending(run: Run, failed: set[str]) -> set[str]:
    """The names of all jobs that directly or indirectly depend on one of these."""
    dependents: dict[str, list[str]] = {}
    for spec in run.graph.jobs:
        for need in spec.depends_on:
            dependents.setdefault(need, []).append(spec.name)
    found: set[str] = set()
    waiting = list(failed)
    while waiting:
        fresh = [name for name in dependents.get(waiting.pop(), ()) if name not in found]
        found.update(fresh)
        waiting += fresh
    return found


def new_job(run_id: str, index: int, spec: JobSpec, steps: Iterable[int] | None = None) -> Job:
    """A job that has not started; ``steps``: only those at these indices."""
    id = ids.job_id(run_id, index)
    job = Job(id=id, index=index, name=spec.name, status=Status.PENDING, spec=spec, workspace=id)
    job.steps = new_steps(run_id, job, steps)
    return job


def new_steps(run_id: str, job: Job, indices: Iterable[int] | None = None) -> list[Step]:
    """The steps of a job's graph that it does not have yet, or those at these indices."""
    specs = job.spec.steps
    return [
        Step(ids.step_id(run_id, job.index, at), job.id, at, specs[at].name, Status.PENDING)
        for at in (range(len(job.steps), len(specs)) if indices is None else indices)
    ]


def _repeated(run_id: str, old: Job) -> Job:
    """The job from its first step; its earlier attempts stay visible."""
    job = new_job(run_id, old.index, old.spec)
    job.kept_from = old.id
    for step, before in zip(job.steps, old.steps, strict=True):
        step.kept_from = before.id
    return job


def _kept(run_id: str, old: Job, *, ask: bool) -> Job:
    """The job: over if it succeeded, otherwise bound to its workspace; a skipped job may run this time.

    ``ask``: its approvals are not kept; one that has such is not over either.
    """
    job = _repeated(run_id, old)
    if old.status is Status.SKIPPED:
        return job
    keep = old.steps if old.status is Status.SUCCEEDED else _before_failure(old)
    asked = [step for step in keep if ask and old.step_spec(step).gate == HOLD]
    keep = [step for step in keep if not (ask and old.step_spec(step).gate == HOLD)]
    over = old.status is Status.SUCCEEDED and not asked
    if over:
        job.status, job.reason = old.status, old.reason
        job.started_at, job.finished_at = old.started_at, old.finished_at
    for before in keep:
        step = job.steps[before.index]
        step.status, step.reason, step.outputs = before.status, before.reason, before.outputs
        step.kept = True
        step.started_at, step.finished_at = before.started_at, before.finished_at
    if keep and not over:
        job.workspace, job.agent_id, job.fresh = old.workspace, old.agent_id, old.fresh
    return job


def _before_failure(old: Job) -> list[Step]:
    """The steps that are kept.

    Steps after the failed one run again, for example cleanup steps. So do background steps, since later steps may
    need them.
    """
    kept: list[Step] = []
    for step in old.steps:
        of_step = old.step_spec(step)
        forgiven = step.status.bad and of_step.continue_on_error
        stopped = step.status is Status.CANCELLED and of_step.background
        if step.status not in _DONE and not forgiven and not stopped:
            break
        if step.status is not Status.SKIPPED and not of_step.background:
            kept.append(step)
    return kept
