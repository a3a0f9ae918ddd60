"""Retention: what finished runs keep, and for how long.

A run itself, its jobs, steps and attempts stay; its log and its checkout go. A cursor into what is gone is
answered with 410, and a new reader of the run still learns how it ended.
"""

from __future__ import annotations

import orjson

from pilothouse.engine import store
from pilothouse.engine.blobs import Blobs
from pilothouse.journal import Journal
from pilothouse.journal import store as journal_store
from pilothouse.storage import Tx
from pilothouse.wire import entries

DAY_MS = 86_400_000
BATCH = 20


class Retention:
    """Forgets the logs of runs that ended more than ``days`` ago; 0 days: never."""

    def __init__(self, journal: Journal, blobs: Blobs, days: float) -> None:
        self._journal = journal
        self._blobs = blobs
        self._days = days

    def prune(self, tx: Tx) -> int:
        """Forget a few runs' logs and checkouts; returns how many runs. Run this about every minute."""
        if not self._days:
            return 0
        old = store.prunable_runs(tx.conn, tx.now - int(self._days * DAY_MS), BATCH)
        for run in old:
            stream = entries.run_stream(run.id)
            end = journal_store.last_of_type(tx.conn, stream, entries.RUN_COMPLETED)
            if end is not None:
                self._journal.forget(tx, stream, end)
            store.mark_pruned(tx.conn, run.id)
        for run in old:
            if run.checkout is not None:
                self._drop_blob(tx, orjson.loads(run.checkout)["id"])
        return len(old)

    def _drop_blob(self, tx: Tx, blob_id: str) -> None:
        if not store.blob_in_use(tx.conn, blob_id):
            store.delete_blob(tx.conn, blob_id)
            tx.after_commit(lambda: self._blobs.path(blob_id).unlink(missing_ok=True))
