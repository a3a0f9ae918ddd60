"""What a run of a spec would do, without running it: compiled and planned by the functions that runs use; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.engine.contexts import run_root
from pilothouse.engine.gates.model import CHILD_RUN
from pilothouse.engine.graph import Graph, Job, Retry, Step
from pilothouse.engine.growth import check_graph
from pilothouse.engine.model import Run, Status
from pilothouse.engine.name_checks import check_names
from pilothouse.engine.names import names_of
from pilothouse.engine.problems import MAX_PROBLEMS, SpecError
from pilothouse.engine.reruns import new_jobs
from pilothouse.engine.selectors import match_selector, requirements
from pilothouse.expressions import ExpressionError, render
from pilothouse.expressions.values import insert_text
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.compiled import names_with
from pilothouse.pipelines.spec.canonical import triggers_to_json
from pilothouse.pipelines.spec.inputs import check_given, inputs_of
from pilothouse.pipelines.spec.model import Spec
from pilothouse.pipelines.verdicts import Planned, Verdict

__all__ = ["Circumstances", "Preview", "SpecError", "document", "preview"]

_RUN_ID = "00000000-0000-7000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the run would be started with; ``event``: how (``run.trigger`` in expressions)."""

    name: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    branch: str = ""
    commit: str = ""
    tag: str = ""
    event: str = "manual"


@dataclass(frozen=True, slots=True)
class Preview:
    """A planned run.

    ``levels``: names of jobs that may run at the same time, in order. ``steps``: by names of job and step, of jobs
    that may start. ``group`` and ``groups``: the concurrency groups of the run and of jobs. ``secrets``: those that
    it needs; ``optional_secrets``: those that it uses if they are there.
    """

    graph: Graph
    variables: Mapping[str, str]
    levels: list[list[str]]
    jobs: Mapping[str, Verdict]
    steps: Mapping[tuple[str, str], Verdict]
    groups: Mapping[str, str]
    group: str
    secrets: list[str]
    optional_secrets: list[str]

    @property
    def starting(self) -> list[str]:
        """The steps that start a run of another pipeline, as ``job/step``."""
        steps = ((job, step) for job in self.graph.jobs for step in job.steps)
        return [f"{job.name}/{step.name}" for job, step in steps if step.gate == CHILD_RUN]

    def unmatched(self, labels: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        """Steps that an agent with these labels alone would leave waiting: job, step, the first unmet requirement."""
        for job in self.graph.jobs:
            for step in job.steps:
                unmet = match_selector(step.selector, labels)
                verdict = self.steps.get((job.name, step.name))
                left_out = verdict is None or (verdict.word == "skip" and not verdict.after)
                if unmet and not step.gate and not left_out:
                    yield job.name, step.name, unmet


def preview(spec: Spec, given: Circumstances) -> Preview:
    """Plan a run of a checked spec.

    Raises SpecError where the start of the run would be refused: missing or unknown variables and inputs, a graph
    that is too large. Secrets are not checked.
    """
    graph = compile_spec(spec)
    check_graph(graph)
    triggers = triggers_to_json(spec)
    names = names_with(names_of(graph), triggers)
    inputs = inputs_of(triggers)
    if inputs is not None and (problems := check_given(inputs, given.variables)):
        raise SpecError(problems[:MAX_PROBLEMS], "<spec>")
    check_names(names, graph.variables, given.variables, ())
    run = _run(graph, given)
    planned = Planned(run)
    return Preview(
        graph=graph,
        variables=run.variables,
        levels=planned.levels,
        jobs=planned.jobs,
        steps=planned.steps,
        groups={job.name: _group(run, job.spec.concurrency) for job in run.jobs if job.spec.concurrency},
        group=_group(run, graph.concurrency),
        secrets=sorted(names.secrets),
        optional_secrets=sorted(set(names.optional_secrets) - set(names.secrets)),
    )


def _run(graph: Graph, given: Circumstances) -> Run:
    run = Run(
        id=_RUN_ID,
        kind="pipeline",
        name=given.name,
        project="",
        pipeline_id="",
        status=Status.RUNNING,
        graph=graph,
        variables={**graph.variables, **given.variables},
        trigger=given.event,
        branch=given.branch,
        commit_sha=given.commit,
        tag=given.tag,
        jobs=new_jobs(_RUN_ID, graph),
    )
    run.recount()
    return run


def _group(run: Run, template: str) -> str:
    try:
        return insert_text(render(template, {"variables": run.variables, "run": run_root(run)})).strip()
    except ExpressionError:
        return template  # of what only a run knows


def document(found: Preview) -> dict[str, Any]:
    """The plan as JSON: jobs by level, with their steps. Durations in seconds; null where there is none."""
    level = {name: number for number, names in enumerate(found.levels, 1) for name in names}
    jobs = sorted(found.graph.jobs, key=lambda job: level[job.name])
    return {
        "variables": dict(found.variables),
        "secrets": found.secrets,
        "optional_secrets": found.optional_secrets,
        "concurrency": found.group or None,
        "cancel_in_progress": found.graph.cancel_in_progress,
        "jobs": [_job_json(found, job, level[job.name]) for job in jobs],
    }


def _job_json(found: Preview, job: Job, level: int) -> dict[str, Any]:
    return {
        "name": job.name,
        "level": level,
        "depends_on": list(job.depends_on),
        **_verdict_json(found.jobs[job.name], job.when),
        "timeout": job.timeout or None,
        "queue_timeout": job.queue_timeout or None,
        "retry": _retry_json(job.retry),
        "on_lost": job.on_lost,
        "concurrency": found.groups.get(job.name),
        "source": {"repo": job.source.repo, "branch": job.source.branch} if job.source else None,
        "steps": [_step_json(job, step, found.steps.get((job.name, step.name))) for step in job.steps],
    }


def _step_json(job: Job, step: Step, verdict: Verdict | None) -> dict[str, Any]:
    """``verdict`` None: its job does not start."""
    return {
        "name": step.name,
        "uses": step.uses,
        "action": step.action,
        **_verdict_json(verdict or Verdict("skip", "its job does not start"), step.when),
        "timeout": step.timeout or None,
        "retry": _retry_json(step.retry),
        "on_lost": step.on_lost or job.on_lost,
        "continue_on_error": step.continue_on_error,
        "background": step.background,
        "selector": requirements(step.selector),
        "gate": {"kind": step.gate, "args": dict(step.args)} if step.gate else None,
    }


def _verdict_json(verdict: Verdict, when: str) -> dict[str, Any]:
    return {
        "plan": verdict.word,
        "reason": verdict.reason or None,
        "when": when or None,
        "runs_after": list(verdict.after),
    }


def _retry_json(retry: Retry | None) -> dict[str, Any] | None:
    return {"max_attempts": retry.max_attempts, "delay": retry.delay} if retry else None
