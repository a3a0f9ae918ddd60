"""The context of expressions in a run, and the evaluation of conditions; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pilothouse.engine.model import Job, Run, Step
from pilothouse.expressions import ExpressionError, compile_condition, evaluate_when
from pilothouse.expressions.values import MAX_STEPS, Budget

SMALL = 100
"""Steps that a condition may always take, so that the likes of always() hold to the end."""

TOO_EXPENSIVE = "the conditions of this run take too long to evaluate: too many steps in all"


def wanted(when: str, outcome: str, run: Run, job: Job, step: Step | None = None) -> bool:
    """Whether a job or step with this ``when`` should run after this ``outcome`` (``evaluate_when``).

    All conditions that are evaluated while the run is settled share ``run.condition_steps``. Raises ExpressionError.
    """
    # Most conditions do not use the run's context, which is as large as the run.
    roots = compile_condition(when).roots if when.strip() else frozenset()
    seen = context(run, job, step) if roots else {}
    before = min(MAX_STEPS, max(run.condition_steps, SMALL))
    budget = Budget(before)
    try:
        return evaluate_when(when, seen, outcome=outcome, cancelled=run.cancelling, budget=budget)
    except ExpressionError as error:
        if before < MAX_STEPS and error.code == "EXPRESSION_TOO_EXPENSIVE":
            raise ExpressionError(error.code, TOO_EXPENSIVE) from None
        raise
    finally:
        run.condition_steps -= before - max(budget.steps, 0) + len(when)
        run.condition_steps = max(run.condition_steps, 0)


def context(run: Run, job: Job, step: Step | None = None) -> dict[str, Any]:
    """The variables of CEL expressions, without secrets (these are inserted when the step is handed out).

    Values whose size depends on the run are only computed when an expression uses them.
    """
    env = {**run.graph.env, **job.spec.env}
    roots: dict[str, Any] = {
        "variables": run.variables,
        "env": env,
        "run": run_root(run),
        "job": Computed(
            {
                "id": lambda: job.id,
                "name": lambda: job.name,
                "round": lambda: job.round,
                "outputs": job.outputs,
            }
        ),
        "jobs": _Jobs(run),
        "step": {},
    }
    if step is not None:
        number = step.attempts if step.current else step.attempts + 1  # the current attempt, or the next
        roots["step"] = {"id": step.id, "name": step.name, "attempt": number}
        roots["env"] = {**env, **job.step_spec(step).env}
    return roots


def run_root(run: Run) -> dict[str, Any]:
    """What expressions see as ``run``."""
    return {
        "id": run.id,
        "name": run.name,
        "kind": run.kind,
        "trigger": run.trigger,
        "triggered_by": run.triggered_by,
        "branch": run.branch,
        "commit": run.commit_sha,
        "tag": run.tag,
    }


class Computed(Mapping[str, Any]):
    """A mapping whose values are computed on first access."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers
        self._made: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._made:
            self._made[key] = self._makers[key]()
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class _Jobs(Mapping[str, Any]):
    """All jobs of a run, by name; what is seen of one is worked out once, however often it is asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: dict[str, Mapping[str, Any]] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._seen:
            self._seen[key] = _seen(self._run.job(key))
        return self._seen[key]

    def __iter__(self) -> Iterator[str]:
        return (job.name for job in self._run.jobs)

    def __len__(self) -> int:
        return len(self._run.jobs)


def _seen(job: Job) -> Mapping[str, Any]:
    return Computed(
        {"status": lambda: job.status.value, "outputs": job.outputs, "steps": lambda: _steps_of(job)}
    )


def _steps_of(job: Job) -> dict[str, Any]:
    return {s.name: {"status": s.status.value, "outputs": s.outputs} for s in job.steps}
