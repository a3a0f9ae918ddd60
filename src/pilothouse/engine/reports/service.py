"""Stores the reports of tests that agents send; they were checked when they were read (``wire/test_reports.py``)."""

from __future__ import annotations

import base64
from typing import Any

import orjson
from uuid_utils import uuid7

from pilothouse.engine.reports import store
from pilothouse.engine.runs import Place
from pilothouse.engine.transitions import Transitions
from pilothouse.storage import Tx
from pilothouse.wire import entries

MAX_OF_RUN = 200
"""Reports of one run."""
MAX_NAME = 128


class TestReports:
    """The use case of reports."""

    __test__ = False

    def __init__(self, transitions: Transitions) -> None:
        self._transitions = transitions

    def take(self, tx: Tx, at: Place, name: str, report: dict[str, Any]) -> str:
        """Store the report of an attempt; returns the reason for refusal, or ``""``."""
        if at.step.current != at.attempt.id or at.attempt.status.over:
            return ""  # a word of an attempt that no longer counts
        if store.count_of(tx.conn, at.run.id) >= MAX_OF_RUN:
            return f"a run has at most {MAX_OF_RUN} reports"
        counts = {key: report[key] for key in (*store.COUNTS, "files", "duration", "complete")}
        store.put(
            tx.conn,
            id=str(uuid7()),
            run_id=at.run.id,
            pipeline_id=at.run.pipeline_id or at.run.id,
            branch=at.run.branch,
            commit_sha="" if at.run.dirty else at.run.commit_sha,
            job=at.job.name,
            step=at.step.name,
            step_run_id=at.attempt.id,
            attempt=at.attempt.number,
            name=name[:MAX_NAME],
            created_at=tx.now,
            problems=_json(report["problems"]),
            failing=_json(report["failing"]),
            flaky=_json(report["flaky"]),
            passed_ids=base64.b64decode(report["passed_ids"]),
            **counts,
        )
        shown = {key: report[key] for key in store.COUNTS}
        self._transitions.records.append(
            tx,
            at.run,
            entries.STEP_TESTED,
            at.job,
            at.step,
            at.attempt,
            agent_id=at.attempt.agent_id,
            report=name[:MAX_NAME],
            flaky=len(report["flaky"]),
            **shown,
        )
        return ""


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
