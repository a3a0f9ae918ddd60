"""The filters of the audit trail are answered by an index, not by reading all records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from pilothouse.identity.records import list_audit
from pilothouse.storage import Database
from pilothouse.storage.migrations import upgrade

ID = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
NOTHING: dict[str, Any] = {"actor": None, "action": None, "target": None, "since": None}


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "audit_records_by_time"),
        ({"actor": "ann"}, "audit_records_by_actor "),
        ({"actor": ID}, "audit_records_by_actor_id "),
        ({"action": "user.created"}, "audit_records_by_action "),
        ({"action": "user.*"}, "audit_records_by_action "),
        ({"target": f"run/{ID}"}, "audit_records_by_target "),
        ({"target": "run/*"}, "audit_records_by_target "),
        ({"since": 5}, "audit_records_by_time "),
    ],
)
def test_filters(tmp_path: Path, filters: dict[str, Any], index: str) -> None:
    database = Database.at(tmp_path / "audit.db")
    upgrade(database)
    asked: list[tuple[str, Any]] = []
    with database.read() as conn:

        @event.listens_for(conn.engine, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
            if "audit_records" in statement and not statement.startswith("EXPLAIN"):
                asked.append((statement, parameters))

        assert list_audit(conn, **{**NOTHING, **filters}, offset=0, limit=20) == ([], 0)
        assert len(asked) == 2
        for statement, parameters in asked if filters else asked[1:]:
            plan = conn.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
            steps = [str(row[3]) for row in plan]
            assert any(index in f"{step} " for step in steps if "audit_records" in step), (statement, steps)
            if filters:
                assert not [step for step in steps if step.startswith("SCAN audit_records")], (
                    statement,
                    steps,
                )
    database.close()
