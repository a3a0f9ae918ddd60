"""The writer's cache of runs.

A run is loaded once and cached while use cases work on it. Only writers change runs: as long as no other server
writes to the database, the cached run equals the stored one. Each transaction that changes a run increments its
version; after another server has written, a cached run is only used if its version is the stored one. If a use case
fails, the cached run is dropped with the rollback.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import Connection

from pilothouse.engine import store
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.model import Attempt, Job, Run, Step
from pilothouse.engine.version_store import run_version, set_run_version
from pilothouse.storage import Storage, Tx

MAX_KEPT, MAX_STEPS = 512, 40_000
"""Runs in the cache, and the steps of all of them: a step with its job takes about two KiB."""


@dataclass(slots=True)
class Place:
    """An attempt with its run, job and step."""

    run: Run
    job: Job
    step: Step
    attempt: Attempt


class RunCache:
    """Caches the runs that use cases work on. Attempts are not cached: they are read in each transaction."""

    def __init__(self, storage: Storage) -> None:
        self._kept: OrderedDict[str, Run] = OrderedDict()
        self._steps: dict[str, int] = {}
        self._total = 0
        self._unverified: set[str] = set()
        self._counted: tuple[Tx | None, set[str]] = (None, set())
        self._shared = storage.shared
        storage.on_takeover(self._mark_unverified)

    def get(self, tx: Tx, run_id: str, *, changes: bool = True) -> Run:
        """The current run; ``changes``: this transaction may change it. Raises :class:`RunNotFound`."""
        run = self._kept.get(run_id)
        if run is not None and run_id in self._unverified:
            run = run if run_version(tx.conn, run_id) == run.version else None
        if run is None:
            run = require_run(tx.conn, run_id)
        self._keep(tx, run)
        if changes:
            self.changed(tx, run)
        return run

    def adopt(self, tx: Tx, run: Run) -> None:
        """Cache a run that this transaction has created."""
        self._keep(tx, run)

    def changed(self, tx: Tx, run: Run) -> None:
        """Increment the run's version, once per transaction. Must be called by code that changes the run, its jobs or
        steps, unless it passed ``changes`` to :meth:`get` or :meth:`place`."""
        if not self._shared:
            return  # no other server can have cached this run
        if self._counted[0] is not tx:
            self._counted = (tx, set())
        if run.id not in self._counted[1]:
            self._counted[1].add(run.id)
            run.version += 1
            set_run_version(tx.conn, run.id, run.version)

    def place(self, tx: Tx, attempt_id: str, *, changes: bool = True) -> Place | None:
        """An attempt with its run; ``changes``: this transaction may change more than the attempt itself."""
        found = store.attempt(tx.conn, attempt_id)
        return _place(self.get(tx, found[0], changes=changes), found[1]) if found else None

    def _keep(self, tx: Tx, run: Run) -> None:
        tx.on_rollback(lambda: self._drop(run.id))
        self._unverified.discard(run.id)
        if run.id not in self._kept:
            self._steps[run.id] = sum(len(job.steps) for job in run.jobs)
            self._total += self._steps[run.id]
        self._kept[run.id] = run
        self._kept.move_to_end(run.id)
        while len(self._kept) > MAX_KEPT or (self._total > MAX_STEPS and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))

    def _drop(self, run_id: str) -> None:
        if self._kept.pop(run_id, None) is not None:
            self._total -= self._steps.pop(run_id)
        self._unverified.discard(run_id)

    def _mark_unverified(self) -> None:
        self._unverified.update(self._kept)


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
