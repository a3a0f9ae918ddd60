"""What is told of a run from its beginning to its end, and what is left of it: each entry and part as a whole."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from pilothouse.pipelines.spec import Retry
from pilothouse.wire import entries
from support.planning import RUN_ID, GRACE, Sim, Told, gate, job, sim, step

ALWAYS = "always()"
BEGAN = 1_000_000
_TIMES = (
    "retry_at",
    "until",
    *(
        field.name
        for kind in (Run, Job, Step, Attempt)
        for field in fields(kind)
        if field.name.endswith(("_at", "_until", "deadline", "_before"))
    ),
)
_KEYS = (
    "v",
    "run_id",
    "kind",
    "name",
    "pipeline_id",
    "project",
    "job",
    "job_id",
    "step",
    "step_id",
    "node",
    "uses",
    "action",
    "index",
    "step_run_id",
    "attempt",
    "previous",
    "status",
    "namespace",
)


def line(run: Sim, told: Told) -> str:
    """An entry in one line: time, where, type, change of the status, all other values that are not empty."""
    body = told.body
    assert (body["v"], body["run_id"], body["kind"], body["name"]) == (
        entries.VERSION,
        RUN_ID,
        "pipeline",
        "build",
    )
    assert (body["pipeline_id"], body["project"], body.get("namespace", "")) == ("", "p", "")
    where = "run"
    if "job" in body:
        [job] = [job for job in run.run.jobs if job.id == body["job_id"]]
        where = job.name
        assert body["job"] == where
    if "step" in body:
        [step] = [step for step in job.steps if step.id == body["step_id"]]
        where = f"{where}.{step.name}"
        spec = job.step_spec(step)
        assert (body["step"], body["node"]) == (step.name, run.run.node(job, step))
        assert (body["uses"], body["action"], body["index"]) == (spec.uses, spec.action, step.index)
    if "step_run_id" in body:
        where += f"#{body['attempt']}"
    change = ">".join(str(body[key]) for key in ("previous", "status") if key in body)
    rest = [shown(key, value) for key, value in body.items() if key not in _KEYS and value]
    return " ".join(word for word in (f"{told.at - BEGAN}", where, told.type, change, *rest) if word)


def shown(key: str, value: Any) -> str:
    if key.endswith("counts"):
        return f"{key}=" + ",".join(str(value[name]) for name in ("total", "completed", "failed", "running"))
    return f"{key}={value - BEGAN if key in _TIMES and value > 1 else value}"


def story(run: Sim) -> list[str]:
    """All that was told since the last time."""
    found = [line(run, told) for told in run.told]
    run.told.clear()
    return found


def left(thing: Run | Job | Step | Attempt) -> str:
    """All values of a part that are not those of a new one, but for ids."""
    found = []
    for field in fields(thing):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(thing, field.name)
        if value != default and field.compare and not field.name.startswith("_"):
            if field.name not in (
                "id",
                "job_id",
                "step_id",
                "spec",
                "graph",
                "steps",
                "jobs",
                "counts",
                "index",
                "kind",
                "project",
                "pipeline_id",
                "variables",
                "current",
            ):
                found.append(shown(field.name, value))
    return " ".join(found)
