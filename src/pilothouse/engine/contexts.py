"""What expressions see of a run, and whether a condition holds; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.engine.model import Job, Run, Step
from pilothouse.expressions import compile_condition, evaluate_when


def wanted(when: str, outcome: str, run: Run, job: Job, step: Step | None = None) -> bool:
    """Whether work with this ``when`` is to run, by the ``outcome`` of what went before (``evaluate_when``).

    Raises ExpressionError.
    """
    # Most conditions need nothing of the run, and what they may see is as large as the run.
    roots = compile_condition(when).roots if when.strip() else frozenset()
    seen = context(run, job, step) if roots else {}
    return evaluate_when(when, seen, outcome=outcome, cancelled=run.cancelling)


def context(run: Run, job: Job, step: Step | None = None) -> dict[str, Any]:
    """The roots of CEL expressions, without secrets (those are put in at the hand-out)."""
    spec = run.job_spec(job)
    roots: dict[str, Any] = {
        "variables": run.variables,
        "env": {**run.graph.env, **spec.env},
        "run": {
            "id": run.id,
            "name": run.name,
            "kind": run.kind,
            "trigger": run.trigger,
            "triggered_by": run.triggered_by,
            "branch": run.branch,
            "commit": run.commit_sha,
            "tag": run.tag,
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
