"""Validates graphs before they are run, and adds jobs and steps to graphs of runs; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.order import find_cycle
from pilothouse.engine.problems import MAX_PROBLEMS, SpecError, SpecProblem, shown

MAX_STEPS = 5000
"""Steps of one run; also of its jobs there are at most so many."""


@dataclass(frozen=True, slots=True)
class Addition:
    """An addition to a graph: new ``jobs``, and ``steps`` to append to existing jobs, by job name."""

    jobs: tuple[Job, ...] = ()
    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A step of a graph that was changed before it was handed out; its place and its name stay."""

    job: int
    index: int
    step: Step


def replaced(graph: Graph, change: Replacement) -> Graph:
    """The graph with the changed step."""
    job = graph.jobs[change.job]
    steps = (*job.steps[: change.index], change.step, *job.steps[change.index + 1 :])
    jobs = (*graph.jobs[: change.job], replace(job, steps=steps), *graph.jobs[change.job + 1 :])
    return replace(graph, jobs=jobs)


def grown(graph: Graph, addition: Addition) -> Graph:
    """The graph with the addition. Existing jobs and steps keep their indices."""
    jobs = tuple(
        replace(job, steps=job.steps + addition.steps[job.name]) if job.name in addition.steps else job
        for job in graph.jobs
    )
    return replace(graph, jobs=jobs + addition.jobs)


def check_addition(graph: Graph, addition: Addition) -> None:
    """Check that all jobs to which steps are added exist. Raises :class:`SpecError`."""
    known = {job.name for job in graph.jobs}
    unknown = [name for name in addition.steps if name not in known]
    if unknown:
        raise SpecError([_problem(f"the run has no job {shown(unknown[0])}", "steps")], "<graph>")


def check_graph(graph: Graph) -> None:
    """Validate a graph. Raises :class:`SpecError` with all problems found."""
    problems = list(_problems(graph))
    if problems:
        raise SpecError(problems[:MAX_PROBLEMS], "<graph>")


def _problems(graph: Graph) -> Iterator[SpecProblem]:
    if not graph.jobs:
        yield _problem("the run has no jobs", "jobs", "at least one")
    if max(graph.size, len(graph.jobs)) > MAX_STEPS:
        message = f"the run has {len(graph.jobs)} jobs and {graph.size} steps"
        yield _problem(message, "jobs", f"at most {MAX_STEPS} of each")
        return
    yield from _twice([job.name for job in graph.jobs], "job", "jobs")
    names = {job.name for job in graph.jobs}
    complete = True
    for index, job in enumerate(graph.jobs):
        path = f"jobs[{index}]"
        yield from _twice([step.name for step in job.steps], "step", f"{path}.steps")
        for need in job.depends_on:
            if need not in names:
                complete = False
                yield _problem(
                    f"{shown(job.name)} depends on {shown(need)}, which is no job", f"{path}.dependsOn"
                )
        for at, step in enumerate(job.steps):
            if step.gate and step.background:
                yield _problem("a gate cannot run in the background", f"{path}.steps[{at}].background")
    if complete and (cycle := find_cycle({job.name: job.depends_on for job in graph.jobs})):
        yield _problem(f"jobs depend on each other: {' -> '.join(cycle[:10])}", "jobs")


def _twice(names: list[str], what: str, path: str) -> Iterator[SpecProblem]:
    if len(set(names)) != len(names):
        for name, count in Counter(names).items():
            if count > 1:
                yield _problem(f"{what} {shown(name)} is there {count} times", path, "a name of its own")


def _problem(message: str, path: str, expected: str = "") -> SpecProblem:
    return SpecProblem(message, 0, 0, expected, path)
