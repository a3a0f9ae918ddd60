"""The tests of a run: what fails, what is flaky, and how that compares with the last run; read only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from pilothouse.engine.artifacts.lineage import lineage
from pilothouse.engine.model import Run
from pilothouse.engine.reports import store
from pilothouse.wire.test_reports import MAX_LISTED, passed_ids
from pilothouse.wire.times import rfc3339_ms

OTHER_RUNS = 3
"""So many other runs of the same commit are looked at for flaky tests."""


def tests_summary(conn: Connection, run_id: str) -> dict[str, Any] | None:
    """The counts of a run's tests; ``None`` if it has no reports."""
    rows, _ = _standing(_reports(conn, run_id, short=True))
    return store.totals(rows) if rows else None


def tests_view(conn: Connection, run: Run) -> dict[str, Any]:
    """All that is known of a run's tests. Slow for many tests."""
    rows, superseded = _standing(_reports(conn, run.id))
    failing = _listed(rows, "failing")
    last = _last_run(conn, run)
    before = _standing(_reports(conn, last.id))[0] if last is not None else []
    known = {test["id"] for test in _listed(before, "failing")}
    now = {test["id"] for test in failing}
    passing = _passed(rows)
    fixed = [_named(test) for test in _listed(before, "failing") if test["id"] not in now]
    flaky = _flaky(rows, superseded, _of_commit(conn, run))
    return {
        "summary": {**store.totals(rows), "flaky": len(flaky)},
        "reports": [_report(row) for row in rows],
        "failing": [{**test, "new": last is not None and test["id"] not in known} for test in failing][
            :MAX_LISTED
        ],
        "flaky": flaky[:MAX_LISTED],
        "compared_with": None
        if last is None
        else {"run_id": last.id, "finished_at": rfc3339_ms(last.finished_at), **store.totals(before)},
        "new_failures": 0 if last is None else len(now - known),
        "fixed": [test for test in fixed if bytes.fromhex(test["id"]) in passing][:MAX_LISTED],
    }


def _reports(conn: Connection, run_id: str, *, short: bool = False) -> list[Row[Any]]:
    """The reports of a run, also those of steps that it kept from an earlier one."""
    return [
        row
        for each, kept in lineage(conn, run_id)
        for row in store.of_run(conn, each, short=short)
        if kept is None or (row.job, row.step) in kept
    ]


def _standing(rows: list[Row[Any]]) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """The reports of each step's last attempt that has any, and those of earlier attempts."""
    newest: dict[tuple[str, str], str] = {}
    for row in sorted(rows, key=lambda row: row.id):
        newest[row.job, row.step] = row.step_run_id
    standing = [row for row in rows if row.step_run_id == newest[row.job, row.step]]
    return standing, [row for row in rows if row not in standing]


def _last_run(conn: Connection, run: Run) -> Row[Any] | None:
    return store.previous_run(conn, run.pipeline_id, run.branch, run.id) if run.pipeline_id else None


def _of_commit(conn: Connection, run: Run) -> list[Row[Any]]:
    if not run.pipeline_id or not run.commit_sha or run.dirty:
        return []
    others = store.runs_of_commit(conn, run.pipeline_id, run.commit_sha, run.id, OTHER_RUNS)
    return [row for other in others for row in store.of_run(conn, other)]


def _flaky(rows: list[Row[Any]], superseded: list[Row[Any]], others: list[Row[Any]]) -> list[dict[str, Any]]:
    """Tests that failed and passed although the code was the same."""
    found: dict[str, dict[str, Any]] = {}
    for test in _listed(rows, "flaky"):
        found.setdefault(test["id"], {**_named(test), "reason": "failed, then passed in the same report"})
    now, passing = {test["id"]: test for test in _listed(rows, "failing")}, _passed(rows)
    for group, reason in (
        (superseded, "another attempt of its step ended differently"),
        (others, "another run of the same commit ended differently"),
    ):
        for test in _listed(group, "failing"):
            if bytes.fromhex(test["id"]) in passing:
                found.setdefault(test["id"], {**_named(test), "reason": reason})
        passed = _passed(group)
        for id, test in now.items():
            if bytes.fromhex(id) in passed:
                found.setdefault(id, {**_named(test), "reason": reason})
    return list(found.values())


def _passed(rows: Iterable[Row[Any]]) -> set[bytes]:
    return set[bytes]().union(*(passed_ids(row.passed_ids) for row in rows))


def _listed(rows: Iterable[Row[Any]], column: str) -> list[dict[str, Any]]:
    """The tests in a column of these reports, with where they ran; each once."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for test in orjson.loads(getattr(row, column)):
            found.setdefault(test["id"], {**test, "job": row.job, "step": row.step, "report": row.name})
    return list(found.values())


def _named(test: dict[str, Any]) -> dict[str, Any]:
    return {key: test[key] for key in ("id", "suite", "class", "name", "message", "job", "step", "report")}


def _report(row: Row[Any]) -> dict[str, Any]:
    return {
        "name": row.name,
        "job": row.job,
        "step": row.step,
        "step_run_id": row.step_run_id,
        "attempt": row.attempt,
        **store.totals([row]),
        "files": row.files,
        "problems": orjson.loads(row.problems),
        "created_at": rfc3339_ms(row.created_at),
    }
