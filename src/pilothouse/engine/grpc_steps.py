"""Step runs as messages of steprun.v1 (arcentra-wire.txt); read only.

Times are Unix seconds, durations milliseconds. The definition of a step is shown as it is written: expressions are
not evaluated, so no secret is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from sqlalchemy import Connection, Row

from pilothouse.access.errors import Refusal
from pilothouse.edge.paging import Paging
from pilothouse.engine.graph import Selector
from pilothouse.engine.graph import Step as StepSpec
from pilothouse.engine.model import Attempt, Status
from pilothouse.engine.runs import Place, require_run
from pilothouse.engine.step_run_store import Wanted, attempts_of_run, list_attempts
from pilothouse.engine.step_runs import deleted
from pilothouse.engine.streams.arcentra import STATUS_NUMBERS
from pilothouse.engine.unstarted import unstarted
from pilothouse.fleet import store as fleet_store
from pilothouse.storage import now_ms
from pilothouse.wire.durations import duration_text
from pilothouse.wire.steprun.v1 import steprun_pb2 as pb

STATUS_OF = {number: Status(word) for word, number in STATUS_NUMBERS.items()}
MAX_SHOWN = 16 << 10
"""Bytes of a step's arguments, environment or outputs that lists show; asking for it alone shows all."""
_SORTS = ("created_at", "started_at", "finished_at", "status", "step_name", "step_index", "job_name")


def step_run_detail(conn: Connection, at: Place, *, listed: bool = False) -> pb.StepRunDetail:
    """One step run; ``listed``: without what is large, and without the agent's labels."""
    run, job, step, attempt = at.run, at.job, at.step, at.attempt
    spec = job.step_spec(step)
    shown = _attempt(attempt, run.created_at)
    shown.pipeline_id, shown.pipeline_run_id = run.pipeline_id or run.id, run.id
    shown.job_id, shown.job_name = job.id, job.name
    shown.step_name, shown.step_index = step.name, step.index
    shown.created_by, shown.image, shown.workspace = run.triggered_by, run.graph.image, job.workspace
    shown.reason = attempt.reason or (step.reason if attempt.status is step.status else "")
    _define(shown, spec, listed)
    if step.outputs and attempt.status.over:
        _fill(shown.outputs, step.outputs, listed)
    agent = fleet_store.agent(conn, attempt.agent_id) if attempt.agent_id and not listed else None
    if agent is not None:
        shown.agent_labels.update(agent.profile.labels)
    return shown


def list_step_runs(
    conn: Connection, wanted: Wanted, paging: Paging, sort_by: str, descending: bool
) -> tuple[list[pb.StepRunDetail], int]:
    """A page, and how many there are.

    Of one run, all step runs in the order of its steps, or by ``sort_by``. Of several runs those that were queued at
    least once, by id (which is the time of the run), without the definitions of their steps.
    """
    if sort_by and sort_by not in _SORTS:
        raise Refusal.of("VALIDATION_FAILED", f"sort_by is one of {', '.join(_SORTS)}", field="sort_by")
    if wanted.run_id:
        places = _of_run(conn, wanted)
        if sort_by or descending:
            places.sort(key=lambda at: _sort_key(at, sort_by), reverse=descending)
        return [step_run_detail(conn, at, listed=True) for at in paging.cut(places)], len(places)
    if sort_by not in ("", "created_at"):
        raise Refusal.of(
            "VALIDATION_FAILED", "step runs of several runs are sorted by created_at", field="sort_by"
        )
    rows, total = list_attempts(conn, wanted, page=paging.page, limit=paging.limit, newest_first=descending)
    return [_row(row) for row in rows], total


def _of_run(conn: Connection, wanted: Wanted) -> list[Place]:
    run = require_run(conn, wanted.run_id)
    if wanted.pipeline_id not in ("", run.pipeline_id or run.id):
        return []
    history = attempts_of_run(conn, run.id)
    found = []
    for job in run.jobs:
        if wanted.job_id not in ("", job.id) or wanted.job_name not in ("", job.name):
            continue
        for step in job.steps:
            if wanted.step_name in ("", step.name):
                waiting = unstarted(run, job, step)
                every = [*history.get(step.id, ()), *([waiting] if waiting else [])]
                found += [Place(run, job, step, attempt) for attempt in every]
    return [
        at
        for at in found
        if not deleted(at)
        and wanted.status in (None, at.attempt.status)
        and wanted.agent_id in ("", at.attempt.agent_id)
    ]


def _sort_key(at: Place, by: str) -> Any:
    attempt, place = at.attempt, (at.job.index, at.step.index, at.attempt.number)
    keys: Mapping[str, Any] = {
        "created_at": attempt.queued_at or at.run.created_at,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "status": STATUS_NUMBERS[attempt.status],
        "step_name": at.step.name,
        "step_index": at.step.index,
        "job_name": at.job.name,
    }
    return (keys[by], place) if by else place


def _row(row: Row[Any]) -> pb.StepRunDetail:
    names = [name for name in Attempt.__dataclass_fields__ if name != "status"]
    attempt = Attempt(**{name: getattr(row, name) for name in names}, status=Status(row.status))
    shown = _attempt(attempt, row.run_created_at)
    shown.pipeline_id, shown.pipeline_run_id = row.pipeline_id or row.run_id, row.run_id
    shown.job_id, shown.job_name = row.job_id, row.job_name
    shown.step_name, shown.step_index = row.step_name, row.step_index
    shown.created_by, shown.reason, shown.run_on_agent = row.triggered_by, attempt.reason, True
    return shown


def _attempt(attempt: Attempt, run_created_at: int) -> pb.StepRunDetail:
    ended, started = attempt.finished_at, attempt.started_at
    return pb.StepRunDetail(
        step_run_id=attempt.id,
        status=pb.StepRunStatus.ValueType(STATUS_NUMBERS[attempt.status]),
        agent_id=attempt.agent_id,
        exit_code=attempt.exit_code,
        error_message=attempt.error,
        created_at=(attempt.queued_at or run_created_at) // 1000,
        started_at=started // 1000,
        finished_at=ended // 1000,
        duration=max(0, (ended or now_ms()) - started) if started else 0,
        attempt=attempt.number,
    )


def _define(shown: pb.StepRunDetail, spec: StepSpec, listed: bool) -> None:
    shown.uses, shown.action, shown.when = spec.uses, spec.action, spec.when
    shown.timeout = duration_text(spec.timeout) if spec.timeout else ""
    shown.continue_on_error, shown.run_on_agent = spec.continue_on_error, not spec.gate
    if spec.args:
        _fill(shown.args, spec.args, listed)
    if not listed or sum(len(name) + len(value) for name, value in spec.env.items()) <= MAX_SHOWN:
        shown.env.update(spec.env)
    if spec.selector is not None:
        _select(shown.agent_selector, spec.selector)


def _fill(struct: Struct, values: Mapping[str, Any], listed: bool) -> None:
    if not listed or len(orjson.dumps(values)) <= MAX_SHOWN:
        json_format.ParseDict(dict(values), struct)


def _select(message: pb.AgentSelector, selector: Selector) -> None:
    message.match_labels.update(selector.match_labels)
    for one in selector.match_expressions:
        message.match_expressions.add(key=one.key, operator=one.operator, values=one.values)
