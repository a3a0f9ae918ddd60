"""What is told of a run of ``support/planning.py``, and what is left of it, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from pilothouse.engine.model import Attempt, Job, Run, Step
from pilothouse.wire import entries
from support.planning import RUN_ID, Sim, Told

BEGAN = 1_000_000
"""When runs begin; times are shown from there on."""

_KINDS: tuple[Any, ...] = (Run, Job, Step, Attempt)
_ENDS = ("_at", "_until", "deadline", "_before")
_TIMES = {one.name for kind in _KINDS for one in fields(kind) if one.name.endswith(_ENDS)} | {
    "retry_at",
    "until",
}
_OF_RUN = {"v": entries.VERSION, "run_id": RUN_ID, "kind": "pipeline", "name": "build", "project": "p"}
_OF_STEP = ("step_id", "step", "node", "uses", "action", "index", "step_run_id", "attempt")
_CHECKED = {*_OF_RUN, "pipeline_id", "namespace", "job_id", "job", *_OF_STEP, "previous", "status"}
_NOT_SHOWN = {
    *("id", "job_id", "step_id", "spec", "graph", "steps", "jobs", "counts", "index", "kind", "project"),
    *("name", "current", "number", "pipeline_id", "variables"),
}


def story(run: Sim) -> Iterator[str]:
    """All that was told since the last time."""
    for told in run.told:
        yield _line(run, told)
    run.told.clear()


def left(run: Sim) -> Iterator[str]:
    """The run, its parts and attempts, with all values that are not those of new ones, but for ids."""
    names = {part.id: part.name for part in run.parts}
    yield f"run {_values(run.run, names)}"
    for part in run.parts:
        yield f"{type(part).__name__.lower()} {part.name} {_values(part, names)}"
    for attempt in run.attempts.values():
        back = f" withdrawn={run.withdrawn[attempt.id]}" if attempt.id in run.withdrawn else ""
        yield f"attempt {names[attempt.step_id]}#{attempt.number} {_values(attempt, names)}{back}"


def _line(run: Sim, told: Told) -> str:
    """An entry: time, where, type, change of the status, all other values that are not empty."""
    body = told.body
    assert {key: body[key] for key in _OF_RUN} == _OF_RUN
    assert not body["pipeline_id"]
    assert None not in body.values()
    assert not body.get("namespace")
    assert told.subject == body.get("step_run_id", body.get("step_id", body.get("job_id", "")))
    change = ">".join(str(body[key]) for key in ("previous", "status") if key in body)
    rest = [_shown(key, value) for key, value in body.items() if key not in _CHECKED and value]
    words = [str(told.at - BEGAN), _where(run, body), told.type, change, *rest]
    return " ".join(word for word in words if word)


def _where(run: Sim, body: dict[str, Any]) -> str:
    if "job" not in body:
        return "run"
    [job] = [job for job in run.run.jobs if (job.id, job.name) == (body["job_id"], body["job"])]
    if "step" not in body:
        return job.name
    [step] = [step for step in job.steps if step.id == body["step_id"]]
    spec = job.step_spec(step)
    node = step.name if len(run.run.jobs) == 1 else f"{job.name}/{step.name}"
    expected = (step.name, node, spec.uses, spec.action, step.index)
    assert tuple(body[key] for key in ("step", "node", "uses", "action", "index")) == expected
    return f"{job.name}.{step.name}" + (f"#{body['attempt']}" if "step_run_id" in body else "")


def _values(thing: Any, names: dict[str, str]) -> str:
    found = []
    for one in fields(thing):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        value = getattr(thing, one.name)
        if value != default and one.compare and one.name not in _NOT_SHOWN and not one.name.startswith("_"):
            if one.name == "workspace":
                value = names[value[:36]] + value[36:]
            found.append(_shown(one.name, value))
    return " ".join(found)


def _shown(key: str, value: Any) -> str:
    if key.endswith("counts"):
        numbers = (value[name] for name in ("total", "completed", "failed", "running"))
        return f"{key}={'/'.join(map(str, numbers))}"
    if key in _TIMES and value > 1:
        return f"{key}={value - BEGAN}"
    if key == "jobs":
        return f"jobs={[_outlined(job) for job in value]}"
    return f"{key}={value}"


def _outlined(job: Any) -> str:
    if isinstance(job, str):
        return job
    steps = " ".join(f"{step['name']}:{step['status']}" for step in job["steps"])
    return f"{job['name']}:{job['status']} after {','.join(job['needs']) or 'none'}: {steps}"
