"""Reads graphs that were stored as the JSON form of ``pipeline.v1.Spec``, up to release 0.1.0; pure.

They were validated when they were stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.engine.graph import Graph, Job, Retry, Step
from pilothouse.engine.graph_json import selector_from_json
from pilothouse.wire.durations import parse_duration


def from_spec(spec: Mapping[str, Any]) -> Graph:
    """The graph of a stored spec."""
    runtime = spec.get("runtime", {})
    return Graph(
        jobs=tuple(_job(job) for job in spec["jobs"]),
        variables=spec.get("variables", {}),
        env=runtime.get("env", {}),
        image=runtime.get("image", ""),
        namespace=spec.get("namespace", ""),
    )


def _job(job: Mapping[str, Any]) -> Job:
    return Job(
        name=job["name"],
        steps=tuple(_step(step) for step in job.get("steps", ())),
        depends_on=tuple(job.get("dependsOn", ())),
        env=job.get("env", {}),
        when=job.get("when", ""),
        timeout=_seconds(job.get("timeout", "")),
        queue_timeout=_seconds(job.get("queueTimeout", "")),
        retry=_retry(job.get("retry")),
        on_lost=job.get("onLost", "fail"),
    )


def _step(step: Mapping[str, Any]) -> Step:
    selector = step.get("agentSelector")
    return Step(
        name=step["name"],
        uses=step["uses"],
        action=step.get("action", ""),
        args=step.get("args", {}),
        env=step.get("env", {}),
        when=step.get("when", ""),
        timeout=_seconds(step.get("timeout", "")),
        selector=None if selector is None else selector_from_json(selector),
        retry=_retry(step.get("retry")),
        on_lost=step.get("onLost", ""),
        continue_on_error=step.get("continueOnError", False),
        background=step.get("background", False),
    )


def _retry(retry: Mapping[str, Any] | None) -> Retry | None:
    return None if retry is None else Retry(retry["maxAttempts"], _seconds(retry.get("delay", "")))


def _seconds(duration: str) -> float:
    return parse_duration(duration).seconds if duration else 0.0
