"""Converts graphs to and from JSON values: keys are field names, defaults are omitted; pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from pilothouse.engine.graph import Graph, Job, LabelExpression, Retry, Selector, Source, Step
from pilothouse.engine.growth import Addition, Replacement, grown, replaced

_STEP = (
    "name",
    "uses",
    "action",
    "args",
    "env",
    "when",
    "timeout",
    "on_lost",
    "continue_on_error",
    "background",
    "gate",
    "guards",
    "removed",
)
_JOB = ("name", "depends_on", "env", "when", "timeout", "queue_timeout", "concurrency")
_SOURCE = ("repo", "branch", "username", "secret")
_GRAPH = ("variables", "env", "image", "namespace", "concurrency", "cancel_in_progress", "notify")


def to_json(graph: Graph) -> dict[str, Any]:
    """Encode a graph; :func:`from_json` is the inverse."""
    return {**_given(graph, _GRAPH), "jobs": [job_to_json(job) for job in graph.jobs]}


def from_json(obj: Mapping[str, Any]) -> Graph:
    """Decode the result of :func:`to_json`, without validation."""
    jobs = tuple(job_from_json(job) for job in obj["jobs"])
    return Graph(**{**obj, "jobs": jobs, "notify": tuple(obj.get("notify", ()))})


@lru_cache(maxsize=64)
def decoded(text: str) -> Graph:
    """Decode the result of :func:`encoded`; the same object for the same text while it is cached."""
    return from_json(orjson.loads(text))


def encoded(graph: Graph) -> str:
    """The JSON text in which a graph is stored."""
    return orjson.dumps(to_json(graph)).decode()


def addition_to_json(addition: Addition) -> dict[str, Any]:
    """Encode an addition to a graph; :func:`addition_from_json` is the inverse."""
    return {
        "jobs": [job_to_json(job) for job in addition.jobs],
        "steps": {name: [step_to_json(step) for step in steps] for name, steps in addition.steps.items()},
    }


def addition_from_json(obj: Mapping[str, Any]) -> Addition:
    """Decode the result of :func:`addition_to_json`, without validation."""
    return Addition(
        jobs=tuple(map(job_from_json, obj["jobs"])),
        steps={name: tuple(map(step_from_json, steps)) for name, steps in obj["steps"].items()},
    )


def replacement_to_json(change: Replacement) -> dict[str, Any]:
    """Encode a changed step; :func:`with_part` reads it."""
    return {"replaced": {"job": change.job, "index": change.index, "step": step_to_json(change.step)}}


def with_part(graph: Graph, obj: Mapping[str, Any]) -> Graph:
    """The graph after the result of :func:`addition_to_json` or :func:`replacement_to_json`."""
    if "replaced" in obj:
        change = obj["replaced"]
        return replaced(graph, Replacement(change["job"], change["index"], step_from_json(change["step"])))
    return grown(graph, addition_from_json(obj))


def job_to_json(job: Job) -> dict[str, Any]:
    """Encode a job with its steps."""
    found = _given(job, _JOB)
    if job.retry is not None:
        found["retry"] = _retry_to_json(job.retry)
    if job.source is not None:
        found["source"] = _given(job.source, _SOURCE)
    if job.on_lost != "fail":
        found["on_lost"] = job.on_lost
    found["steps"] = [step_to_json(step) for step in job.steps]
    return found


def job_from_json(obj: Mapping[str, Any]) -> Job:
    """Decode the result of :func:`job_to_json`."""
    values = {**obj, "steps": tuple(map(step_from_json, obj["steps"]))}
    if "depends_on" in obj:
        values["depends_on"] = tuple(obj["depends_on"])
    if "retry" in obj:
        values["retry"] = Retry(**obj["retry"])
    if "source" in obj:
        values["source"] = Source(**obj["source"])
    return Job(**values)


def step_to_json(step: Step) -> dict[str, Any]:
    """Encode a step."""
    found = _given(step, _STEP)
    if step.selector is not None:
        found["selector"] = selector_to_json(step.selector)
    if step.retry is not None:
        found["retry"] = _retry_to_json(step.retry)
    return found


def step_from_json(obj: Mapping[str, Any]) -> Step:
    """Decode the result of :func:`step_to_json`."""
    values = dict(obj)
    if "selector" in obj:
        values["selector"] = selector_from_json(obj["selector"])
    if "retry" in obj:
        values["retry"] = Retry(**obj["retry"])
    return Step(**values)


def selector_to_json(selector: Selector | None) -> dict[str, Any]:
    """A selector in the form of Kubernetes, which is also stored with attempts; {} without requirements."""
    found: dict[str, Any] = {}
    if selector is None:
        return found
    if selector.match_labels:
        found["matchLabels"] = dict(selector.match_labels)
    if selector.match_expressions:
        found["matchExpressions"] = [_expression_to_json(one) for one in selector.match_expressions]
    return found


def selector_from_json(obj: Mapping[str, Any]) -> Selector:
    """Decode the result of :func:`selector_to_json`."""
    return Selector(
        match_labels=dict(obj.get("matchLabels", {})),
        match_expressions=tuple(
            LabelExpression(one["key"], one["operator"], tuple(one.get("values", ())))
            for one in obj.get("matchExpressions", ())
        ),
    )


def _expression_to_json(expression: LabelExpression) -> dict[str, Any]:
    found: dict[str, Any] = {"key": expression.key, "operator": expression.operator}
    return {**found, "values": list(expression.values)} if expression.values else found


def _retry_to_json(retry: Retry) -> dict[str, Any]:
    return {"max_attempts": retry.max_attempts, **({"delay": retry.delay} if retry.delay else {})}


def _given(node: Graph | Job | Step | Source, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(node, name))}
