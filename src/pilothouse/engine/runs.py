"""Runs in the hands of the writer: loaded once, and kept while they go on.

Only the writer thread changes runs, so what it keeps is what is stored. A use case that fails has changed its
copy in vain: that copy is dropped with the rollback. Once another server has written to the same database, nothing
that is kept counts any more.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import Connection

from pilothouse.engine import store
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.model import Attempt, Job, Run, Step
from pilothouse.storage import Storage, Tx

MAX_KEPT = 512


@dataclass(slots=True)
class Place:
    """An attempt with all it belongs to."""

    run: Run
    job: Job
    step: Step
    attempt: Attempt


class Runs:
    """The runs that use cases work on."""

    def __init__(self, storage: Storage) -> None:
        self._kept: OrderedDict[str, Run] = OrderedDict()
        storage.on_takeover(self._kept.clear)

    def get(self, tx: Tx, run_id: str) -> Run:
        """The run, to be changed in this transaction. Raises :class:`RunNotFound`."""
        run = self._kept.get(run_id)
        if run is None:
            run = require_run(tx.conn, run_id)
        self.adopt(tx, run)
        return run

    def adopt(self, tx: Tx, run: Run) -> None:
        """Keep a run that this transaction works on; forget it should the transaction fail."""
        tx.on_rollback(lambda: self._kept.pop(run.id, None))
        self._kept[run.id] = run
        self._kept.move_to_end(run.id)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def place(self, tx: Tx, attempt_id: str) -> Place | None:
        """An attempt with its run, to be changed in this transaction."""
        found = store.attempt(tx.conn, attempt_id)
        return _place(self.get(tx, found[0]), found[1]) if found else None


def require_run(conn: Connection, run_id: str) -> Run:
    """A run as stored, for reading. Raises :class:`RunNotFound`."""
    run = store.load_run(conn, run_id)
    if run is None:
        raise RunNotFound(run_id)
    return run


def read_place(conn: Connection, attempt_id: str) -> Place | None:
    """An attempt with its run as stored, for reading."""
    found = store.attempt(conn, attempt_id)
    return _place(require_run(conn, found[0]), found[1]) if found else None


def _place(run: Run, attempt: Attempt) -> Place:
    job, step = run.find_step(attempt.step_id)
    return Place(run, job, step, attempt)
