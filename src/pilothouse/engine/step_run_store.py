"""SQL of lists of step runs; no run is loaded for its row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from pilothouse.engine.model import Attempt, Status
from pilothouse.engine.store import attempts, jobs, runs, steps
from pilothouse.storage.counting import count_ahead


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters; empty ones match everything. ``projects``: those that the caller may see, ``None`` for all."""

    projects: frozenset[str] | None
    pipeline_id: str = ""
    run_id: str = ""
    job_id: str = ""
    job_name: str = ""
    step_name: str = ""
    status: Status | None = None
    agent_id: str = ""


def list_attempts(
    conn: Connection, wanted: Wanted, *, page: int, limit: int, newest_first: bool
) -> tuple[list[Row[Any]], int]:
    """A page of the step runs of all runs that have a row, in the order of their ids, and how many there are
    (``count_ahead``)."""
    conditions: list[Any] = []
    if wanted.projects is not None:
        conditions.append(runs.c.project.in_(wanted.projects))
    if wanted.pipeline_id:
        conditions.append((runs.c.pipeline_id == wanted.pipeline_id) | (runs.c.id == wanted.pipeline_id))
    if wanted.status is not None:
        conditions.append(attempts.c.status == wanted.status.value)
    for column, value in (
        (attempts.c.run_id, wanted.run_id),
        (jobs.c.id, wanted.job_id),
        (jobs.c.name, wanted.job_name),
        (steps.c.name, wanted.step_name),
        (attempts.c.agent_id, wanted.agent_id),
    ):
        if value:
            conditions.append(column == value)
    joined = (
        attempts.join(steps, steps.c.id == attempts.c.step_id)
        .join(jobs, jobs.c.id == steps.c.job_id)
        .join(runs, runs.c.id == attempts.c.run_id)
    )
    offset = (page - 1) * limit
    total = count_ahead(conn, select(attempts.c.id).select_from(joined).where(*conditions), offset)
    columns: list[Any] = [
        *attempts.c,
        steps.c.name.label("step_name"),
        steps.c.index.label("step_index"),
        jobs.c.id.label("job_id"),
        jobs.c.name.label("job_name"),
        runs.c.pipeline_id,
        runs.c.created_at.label("run_created_at"),
        runs.c.triggered_by,
    ]
    query = select(*columns).select_from(joined)
    order = attempts.c.id.desc() if newest_first else attempts.c.id
    rows = conn.execute(query.where(*conditions).order_by(order).limit(limit).offset(offset))
    return list(rows), total


def attempts_of_run(conn: Connection, run_id: str) -> dict[str, list[Attempt]]:
    """All attempts of a run, in order, by step."""
    names = [c.name for c in attempts.c if c.name != "run_id"]
    query = select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number, attempts.c.id)
    found: dict[str, list[Attempt]] = {}
    for row in conn.execute(query):
        values = {name: getattr(row, name) for name in names}
        found.setdefault(row.step_id, []).append(Attempt(**{**values, "status": Status(row.status)}))
    return found
