"""SQL of lists of runs; no run is loaded for its row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, case, false, func, select

from pilothouse.engine.model import Counts, Status
from pilothouse.engine.store import jobs, load_run, runs
from pilothouse.storage.counting import count_ahead

MAX_LISTED = 4096
"""Characters of a run's variables, as JSON, that lists show."""


def list_runs(
    conn: Connection,
    *,
    filters: dict[str, str],
    projects: frozenset[str] | None,
    page: int,
    limit: int,
    paused: bool | None = None,
) -> tuple[list[Row[Any]], int]:
    """A page of runs, newest first, and how many there are (``count_ahead``); ``projects`` limits what is seen.

    ``paused``: only those that are, or are not. ``variables`` is ``None`` where they have over ``MAX_LISTED``
    characters.
    """
    conditions = [runs.c[name] == value for name, value in filters.items()]
    if paused is not None:
        conditions.append(runs.c.paused_at > 0 if paused else runs.c.paused_at == 0)
    if projects is not None:
        conditions.append(runs.c.project.in_(projects))
    offset = (page - 1) * limit
    total = count_ahead(conn, select(runs.c.id).where(*conditions), offset)
    columns: list[Any] = [c for c in runs.c if c.name not in ("spec", "checkout", "variables")]
    few = func.length(runs.c.variables) <= MAX_LISTED
    columns.append(case((few, runs.c.variables), else_=None).label("variables"))
    columns.append(func.coalesce(runs.c.checkout.contains('"dirty":true'), false()).label("dirty"))
    query = select(*columns).where(*conditions).order_by(runs.c.id.desc()).limit(limit).offset(offset)
    return list(conn.execute(query)), total


def count_jobs(conn: Connection, rows: Iterable[Row[Any]]) -> dict[str, dict[str, int]]:
    """For rows of runs the counts of their jobs (``Counts.shown``); the runs themselves are not loaded."""
    totals = {row.id: row.job_count for row in rows}
    query = select(jobs.c.run_id, jobs.c.status, func.count()).where(jobs.c.run_id.in_(list(totals)))
    found: dict[str, Counts] = {run_id: Counts() for run_id in totals}
    for run_id, status, number in conn.execute(query.group_by(jobs.c.run_id, jobs.c.status)):
        found[run_id].add(Status(status), number)
    for run_id, counts in found.items():
        if not totals[run_id]:  # of an older release
            run = load_run(conn, run_id)
            counts = found[run_id] = run.counts if run is not None else counts
        elif totals[run_id] > counts.total:  # jobs get a row when they change
            counts.add(Status.PENDING, totals[run_id] - counts.total)
    return {run_id: counts.shown() for run_id, counts in found.items()}


def count_unfinished(conn: Connection, project: str, most: int) -> int:
    """The number of the project's runs that have not ended, counted up to ``most``."""
    some = select(runs.c.id).where(runs.c.project == project, runs.c.finished_at == 0).limit(most)
    return int(conn.execute(select(func.count()).select_from(some.subquery())).scalar_one())
