"""What expressions see of a large run costs what it costs to look at it once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pilothouse.engine import contexts
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.model import Run, Status
from pilothouse.engine.reruns import new_jobs
from pilothouse.expressions import ExpressionError, render


def large_run(steps: int) -> Run:
    """A run of one job, each of whose steps has an output."""
    graph = Graph(jobs=(Job("a", tuple(Step(f"s{at}") for at in range(steps))),))
    run = Run("019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10", "pipeline", "n", "p", "", Status.RUNNING, graph, {})
    run.jobs = new_jobs(run.id, graph)
    run.recount()
    for step in run.jobs[0].steps:
        run.jobs[0].set_outputs(step, {step.name: "v"})
    return run


@pytest.mark.parametrize(
    ("expression", "counted"), [("jobs.a.steps.s1.status", "steps"), ("jobs.a.outputs.s1", "outputs")]
)
def test_a_job_is_looked_at_once_however_often_it_is_named(
    expression: str, counted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, looked = large_run(100), []

    def counting(look: Callable[[object], object]) -> Callable[[object], object]:
        def look_at(job: object) -> object:
            looked.append(job)
            return look(job)

        return look_at

    if counted == "steps":
        monkeypatch.setattr(contexts, "_steps_of", counting(contexts._steps_of))
    else:
        monkeypatch.setattr(type(run.jobs[0]), "outputs", counting(type(run.jobs[0]).outputs))
    found = render("${{ [1, 2, 3, 4].map(x, " + expression + ") }}", contexts.context(run, run.jobs[0]))
    assert len(found) == 4
    assert len(looked) == 1


@pytest.mark.parametrize("expression", ["jobs", "jobs.a", "jobs == jobs", "jobs in [jobs]"])
def test_all_of_a_large_run_is_too_much(expression: str) -> None:
    run = large_run(5000)
    with pytest.raises(ExpressionError) as refusal:
        render("${{ " + expression + " }}", contexts.context(run, run.jobs[0]))
    assert refusal.value.code == "EXPRESSION_TOO_EXPENSIVE"
