"""The table of test reports, and its SQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    Row,
    Table,
    Text,
    delete,
    insert,
    select,
)

from pilothouse.engine.store import runs
from pilothouse.storage import metadata

test_reports = Table(
    "test_reports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("pipeline_id", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("commit_sha", Text, nullable=False),  # empty: with uncommitted changes, or unknown
    Column("job", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("step_run_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("tests", Integer, nullable=False),
    Column("passed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("errors", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("files", Integer, nullable=False),
    Column("duration", Float, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("problems", Text, nullable=False),
    Column("failing", Text, nullable=False),
    Column("flaky", Text, nullable=False),
    Column("passed_ids", LargeBinary, nullable=False),
    Index("test_reports_by_run", "run_id", "step_run_id", "name"),
    Index("test_reports_by_branch", "pipeline_id", "branch", "run_id"),
    Index("test_reports_by_commit", "pipeline_id", "commit_sha", "run_id"),
)

COUNTS = ("tests", "passed", "failed", "errors", "skipped")
_SHORT = [c for c in test_reports.c if c.name not in ("problems", "failing", "flaky", "passed_ids")]
_ENDED = ("succeeded", "failed", "timed_out")


def put(conn: Connection, **values: Any) -> None:
    """Store a report, in place of one with the same name of the same attempt."""
    same = (
        (test_reports.c.run_id == values["run_id"])
        & (test_reports.c.step_run_id == values["step_run_id"])
        & (test_reports.c.name == values["name"])
    )
    conn.execute(delete(test_reports).where(same))
    conn.execute(insert(test_reports).values(**values))


def count_of(conn: Connection, run_id: str) -> int:
    """The number of a run's reports."""
    return len(conn.execute(select(test_reports.c.id).where(test_reports.c.run_id == run_id)).all())


def of_run(conn: Connection, run_id: str, *, short: bool = False) -> list[Row[Any]]:
    """A run's reports, in the order they came; ``short``: without lists of tests."""
    columns = _SHORT if short else list(test_reports.c)
    query = select(*columns).where(test_reports.c.run_id == run_id).order_by(test_reports.c.id)
    return list(conn.execute(query))


def previous_run(conn: Connection, pipeline_id: str, branch: str, before: str) -> Row[Any] | None:
    """The last run of the pipeline on the branch before run ``before`` that has ended and has reports."""
    same = (test_reports.c.pipeline_id == pipeline_id) & (test_reports.c.branch == branch)
    query = (
        select(runs.c.id, runs.c.finished_at)
        .join(test_reports, test_reports.c.run_id == runs.c.id)
        .where(same, test_reports.c.run_id < before, runs.c.status.in_(_ENDED))
    )
    found: Any = conn.execute(query.order_by(test_reports.c.run_id.desc()).limit(1)).first()
    return found  # type: ignore[no-any-return]


def runs_of_commit(conn: Connection, pipeline_id: str, commit: str, but: str, limit: int) -> list[str]:
    """The newest other runs of the pipeline that have tested a commit."""
    query = (
        select(test_reports.c.run_id)
        .where(
            test_reports.c.pipeline_id == pipeline_id,
            test_reports.c.commit_sha == commit,
            test_reports.c.run_id != but,
        )
        .distinct()
    )
    return list(conn.execute(query.order_by(test_reports.c.run_id.desc()).limit(limit)).scalars())


def delete_of_run(conn: Connection, run_id: str) -> None:
    """Delete a run's reports."""
    conn.execute(delete(test_reports).where(test_reports.c.run_id == run_id))


def totals(rows: Collection[Row[Any]]) -> dict[str, Any]:
    """The counts of several reports together."""
    counts: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in COUNTS}
    counts["duration"] = round(sum(row.duration for row in rows), 3)
    return counts
