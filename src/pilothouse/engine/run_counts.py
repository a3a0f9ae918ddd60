"""How many runs a pipeline has had, and how they ended: counted as they begin and end, not by lists."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Table, Text, bindparam, insert, select, update

from pilothouse.engine.model import Run, Status
from pilothouse.engine.store import runs
from pilothouse.storage import metadata
from pilothouse.storage.prepared import Prepared

run_counts = Table(
    "run_counts",
    metadata,
    Column("pipeline_id", Text, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("succeeded", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
)

_ADD = Prepared(
    update(run_counts)
    .where(run_counts.c.pipeline_id == bindparam("pipeline"))
    .values(
        total=run_counts.c.total + bindparam("runs"),
        succeeded=run_counts.c.succeeded + bindparam("good"),
        failed=run_counts.c.failed + bindparam("bad"),
    )
)


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Of one pipeline. ``newest``: the status of its newest run; empty if there is none."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    newest: str = ""


def begun(conn: Connection, run: Run) -> None:
    """Count a new run."""
    if run.pipeline_id and not _add(conn, run.pipeline_id, total=1):
        conn.execute(insert(run_counts).values(pipeline_id=run.pipeline_id, total=1, succeeded=0, failed=0))


def ended(conn: Connection, run: Run) -> None:
    """Count the end of a run, with its status."""
    _outcome(conn, run, 1)


def reopened(conn: Connection, run: Run) -> None:
    """Undo :func:`ended`; the run still has the status with which it had ended."""
    _outcome(conn, run, -1)


def of_pipelines(conn: Connection, pipeline_ids: Collection[str]) -> dict[str, RunCounts]:
    """The counts of those that have had runs."""
    c = run_counts.c
    mine = select(runs.c.status).where(runs.c.pipeline_id == c.pipeline_id).order_by(runs.c.id.desc())
    newest = mine.limit(1).correlate(run_counts).scalar_subquery()
    query = select(c.pipeline_id, c.total, c.succeeded, c.failed, newest)
    rows = conn.execute(query.where(c.pipeline_id.in_(list(pipeline_ids))))
    return {row[0]: RunCounts(row[1], row[2], row[3], row[4] or "") for row in rows}


def _outcome(conn: Connection, run: Run, number: int) -> None:
    good, bad = run.status is Status.SUCCEEDED, run.status is Status.FAILED
    if run.pipeline_id and (good or bad):
        _add(conn, run.pipeline_id, good=number * good, bad=number * bad)


def _add(conn: Connection, pipeline: str, *, total: int = 0, good: int = 0, bad: int = 0) -> bool:
    values = {"pipeline": pipeline, "runs": total, "good": good, "bad": bad}
    return bool(_ADD.run(conn, values).rowcount)
