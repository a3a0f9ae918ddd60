"""The keys and counts that entries of a run contain besides the change itself (wire/entries.py); pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilothouse.engine import ids
from pilothouse.engine.model import Job, Run, Step
from pilothouse.wire import entries


def run_keys(run: Run, job: Job | None = None, step: Step | None = None) -> dict[str, Any]:
    """The keys that every entry of a run carries."""
    keys: dict[str, Any] = {
        "v": entries.VERSION,
        "run_id": run.id,
        "kind": run.kind,
        "name": run.name,
        "pipeline_id": run.pipeline_id,
        "project": run.project,
    }
    if job is not None:
        keys["job_id"], keys["job"] = job.id, job.name
    if job is not None and step is not None:
        spec = job.step_spec(step)
        keys.update(
            step_id=step.id,
            step=step.name,
            node=run.node(job, step),
            uses=spec.uses,
            action=spec.action,
            index=step.index,
        )
    return keys


def run_standing(run: Run) -> dict[str, Any]:
    """The counts of a run's jobs by status, for entries of the run."""
    return {"namespace": run.graph.namespace, "counts": run.counts.shown()}


def job_standing(run: Run, job: Job) -> dict[str, Any]:
    """The counts of a job's steps and of the run's jobs by status, for entries of the job."""
    return {
        "counts": job.counts.shown(),
        "at_step": job.at_step,
        "namespace": run.graph.namespace,
        "run_status": run.status,
        "run_counts": run.counts.shown(),
    }


def around(job: Job) -> dict[str, Any]:
    """The state of the step's job, for entries of the step."""
    return {"job_status": job.status, "counts": job.counts.shown(), "at_step": job.at_step}


def outline(run: Run, jobs: Sequence[Job] | None = None) -> list[dict[str, Any]]:
    """The names and ids of (some) jobs of a run, with their steps and step runs."""
    return [
        {
            "id": job.id,
            "name": job.name,
            "needs": list(job.spec.depends_on),
            "status": job.status,
            "steps": [_step_outline(run, job, step) for step in job.steps],
        }
        for job in (run.jobs if jobs is None else jobs)
    ]


def _step_outline(run: Run, job: Job, step: Step) -> dict[str, Any]:
    found: dict[str, Any] = {"id": step.id, "name": step.name, "status": step.status}
    if not step.kept:
        found["step_run_id"] = ids.first_step_run_id(run.id, job.index, step.index)
    return found


def span(start: int, end: int) -> int:
    return end - start if start else 0
