"""Journal entries of runs."""

from __future__ import annotations

from typing import Any

from pilothouse.engine.model import Attempt, Job, Run, Step
from pilothouse.engine.standing import run_keys
from pilothouse.journal import Journal
from pilothouse.storage import Tx
from pilothouse.wire import entries


class RunRecords:
    """Writes entries to the streams of runs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def append(
        self,
        tx: Tx,
        run: Run,
        type: str,
        job: Job | None = None,
        step: Step | None = None,
        attempt: Attempt | None = None,
        **more: Any,
    ) -> None:
        """Append an entry with the keys that every projection needs (wire/entries.py)."""
        body = run_keys(run, job, step)
        if attempt is not None:
            body["step_run_id"] = attempt.id
            body["attempt"] = attempt.number
        body.update(more)
        subject = attempt.id if attempt else step.id if step else job.id if job else ""
        scope = entries.project_scope(run.project)
        self._journal.append(tx, entries.run_stream(run.id), type, scope, body, subject=subject)
