"""Compiles a checked spec to the graph that the engine runs; pure."""

from __future__ import annotations

import orjson

from pilothouse.engine import graph
from pilothouse.engine.gates.model import CHILD_RUN, HOLD, WINDOW
from pilothouse.engine.graph import Graph
from pilothouse.expressions import secret_names
from pilothouse.pipelines.spec.approvals import is_required, name_of_step
from pilothouse.pipelines.spec.canonical import triggers_to_json
from pilothouse.pipelines.spec.inputs import inputs_of
from pilothouse.pipelines.spec.model import Job, Retry, Source, SourceAuth, Spec, Step, Target
from pilothouse.pipelines.spec.notifications import notifications_of
from pilothouse.wire.durations import parse_duration

GATES = {"approval/wait": HOLD, "window/wait": WINDOW, "pipeline/run": CHILD_RUN}
"""Actions that are gates: settled by the server, by no agent."""


def compile_spec(spec: Spec) -> Graph:
    """The jobs and steps of a spec, with durations in seconds."""
    return Graph(
        jobs=tuple(map(_job, spec.jobs)),
        variables={**spec.variables, **_defaults(spec)},
        env=spec.runtime.env,
        image=spec.runtime.image,
        namespace=spec.namespace,
        concurrency=spec.concurrency.group if spec.concurrency else "",
        cancel_in_progress=bool(spec.concurrency and spec.concurrency.cancel_in_progress),
        notify=notifications_of(spec),
    )


def _defaults(spec: Spec) -> dict[str, str]:
    inputs = inputs_of(triggers_to_json(spec)) or ()
    return {one.name: one.default for one in inputs if one.default is not None}


def _job(job: Job) -> graph.Job:
    return graph.Job(
        name=job.name,
        steps=(*((_approval(job),) if is_required(job) else ()), *map(_step, job.steps)),
        depends_on=job.depends_on,
        env={**_target(job.target), **job.env},
        when=job.when,
        timeout=job.timeout_seconds,
        queue_timeout=job.queue_timeout_seconds,
        retry=_retry(job.retry),
        on_lost=job.on_lost,
        concurrency=job.concurrency,
        source=_source(job.source),
    )


def _target(target: Target | None) -> dict[str, str]:
    """What the steps of a job know of its target."""
    if target is None:
        return {}
    return {"PILOT_TARGET_TYPE": target.type, "PILOT_TARGET": orjson.dumps(target.config).decode()}


def _approval(job: Job) -> graph.Step:
    """The step that waits for the approval of a job before its own steps."""
    assert job.approval is not None, "it is required"
    args = dict(job.approval.params)
    timeout = args.pop("timeout", "")
    return graph.Step(
        name=name_of_step(job),
        uses="approval",
        action="wait",
        args=args,
        timeout=parse_duration(timeout).seconds if timeout else 0.0,
        gate=HOLD,
        guards=True,
    )


def _source(source: Source | None) -> graph.Source | None:
    if source is None:
        return None
    given = source.auth or SourceAuth()
    secrets = sorted(secret_names([given.token or given.password]))
    return graph.Source(source.repo, source.branch, given.username, secrets[0] if secrets else "")


def _step(step: Step) -> graph.Step:
    return graph.Step(
        name=step.name,
        uses=step.uses,
        action=step.action,
        args=step.args,
        env=step.env,
        when=step.when,
        timeout=step.timeout_seconds,
        selector=step.agent_selector,
        retry=_retry(step.retry),
        on_lost=step.on_lost,
        continue_on_error=step.continue_on_error,
        background=step.background,
        gate=GATES.get(f"{step.uses}/{step.action}", ""),
    )


def _retry(retry: Retry | None) -> graph.Retry | None:
    return None if retry is None else graph.Retry(retry.max_attempts, retry.delay_seconds)
