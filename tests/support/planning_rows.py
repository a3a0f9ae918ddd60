"""What the transitions of a run store, in memory; it stands in for ``engine/store.py``."""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from typing import Any

import orjson

from pilothouse.engine import store
from pilothouse.engine.graph_json import decoded, encoded, with_part
from pilothouse.engine.model import Attempt, Job, Run, Status, Step

CONNECTION = object()
"""Stands in for that of the transaction."""

_COLUMNS = {Run: store._RUN, Job: store._JOB, Step: store._STEP, Attempt: store._ATTEMPT_STATE}


def row_of(thing: Run | Job | Step | Attempt) -> dict[str, Any]:
    """What is stored of it."""
    row = store._values(thing, _COLUMNS[type(thing)])
    assert None not in [value for name, value in row.items() if name != "checkout"]
    return row


def check_counted(run: Run) -> None:
    """What is updated with each change is what would be worked out anew."""
    anew = copy(run)
    anew.jobs = [copy(job) for job in run.jobs]
    anew.agenda = OrderedDict()
    anew.recount()
    assert anew.counts == run.counts
    for one, other in zip(anew.jobs, run.jobs, strict=True):
        for name in ("counts", "unmet", "begun", "_failing", "_with_outputs", "_own_open", "_has_own"):
            assert getattr(one, name) == getattr(other, name), name
        for name in ("_open", "_awaited"):
            assert list(getattr(one, name)) == list(getattr(other, name)), name


class Rows:
    """The rows of a run, its parts and attempts by id, as they were stored last."""

    def __init__(self, run: Run, attempts: dict[str, Attempt]) -> None:
        self._run = run
        self._attempts = attempts
        self._rows: dict[str, dict[str, Any]] = {}
        self.parts = [encoded(run.graph)]
        """Of its graph; empty for a run of the first release."""

    def note(self, *things: Run | Job | Step | Attempt) -> None:
        """These are stored as they are."""
        self._rows.update((thing.id, row_of(thing)) for thing in things)

    def check(self, *things: Run | Job | Step | Attempt) -> None:
        """All that has changed was stored."""
        for thing in things:
            assert self._rows[thing.id] == row_of(thing), f"{type(thing).__name__} was not stored"
        if len(self.parts) > 1:
            graph = decoded(self.parts[0])
            for part in self.parts[1:]:
                graph = with_part(graph, orjson.loads(part))
            assert graph == self._run.graph

    # -- what transitions call --------------------------------------------------------------------------

    def save(self, conn: Any, thing: Run | Attempt) -> None:
        assert conn is CONNECTION
        self.note(thing)

    def save_part(self, conn: Any, run_id: str, part: Job | Step) -> None:
        assert (conn, run_id) == (CONNECTION, self._run.id)
        self.note(part)

    def insert_attempt(self, conn: Any, run_id: str, attempt: Attempt) -> None:
        assert (conn, run_id) == (CONNECTION, self._run.id)
        assert attempt.id not in self._attempts
        self._attempts[attempt.id] = attempt
        self.note(attempt)

    def insert_attempts(self, conn: Any, run_id: str, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self.insert_attempt(conn, run_id, attempt)

    def attempt(self, conn: Any, attempt_id: str) -> tuple[str, Attempt] | None:
        assert conn is CONNECTION
        found = self._attempts.get(attempt_id)
        return (self._run.id, found) if found else None

    def count_parts(self, conn: Any, run_id: str) -> int:
        assert (conn, run_id) == (CONNECTION, self._run.id)
        return len(self.parts)

    def insert_graph(self, conn: Any, run_id: str, part: int, body: str) -> None:
        assert (conn, run_id, part) == (CONNECTION, self._run.id, len(self.parts))
        self.parts.append(body)

    def restart_steps(self, conn: Any, job_id: str, indices: list[int] | None = None) -> None:
        assert conn is CONNECTION
        [job] = [job for job in self._run.jobs if job.id == job_id]
        for step in job.steps:
            if indices is None or step.index in indices:
                row = self._rows[step.id]
                if Status(row["status"]).over and not row["attempts"] and not row["kept"]:
                    row["attempts"] = 1
                row.update(status="pending", reason="", outputs="{}", failures=0, current="", stopping="")
                row.update(kept=False, not_before=0, deadline=0, started_at=0, finished_at=0)
