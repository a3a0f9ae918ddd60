"""Retention: deletes the logs, artifacts, test reports and checkouts of old runs, and uploads that nobody needs.

Runs with their jobs, steps and attempts are kept. A cursor into a deleted log is answered with 410; a new reader of
the run still gets its result.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial

from pilothouse.blobs import store as blob_store
from pilothouse.blobs.service import Blobs
from pilothouse.engine import checkout_store, store
from pilothouse.engine.artifacts import store as artifact_store
from pilothouse.engine.checkouts import blob_ids
from pilothouse.engine.intake.quotas import IntakeQuotas
from pilothouse.engine.reports import store as report_store
from pilothouse.journal import Journal
from pilothouse.journal import store as journal_store
from pilothouse.storage import Storage, Tx
from pilothouse.wire import entries

DAY_MS = 86_400_000
BATCH = 20
PAGE = 500
"""So many rows are read, and so many blobs deleted, at a time."""
UNUSED_MS = DAY_MS
"""A blob that no run and no known commit needs stays for so long."""
UNUSED_COMMIT_MS = 30 * DAY_MS
"""A commit that no run has used for so long is not known any more: every new directory without a remote is a
repository of its own, whose packs would stay for ever."""
SLACK = 60.0
"""Seconds by which the clocks of servers may differ."""


class Retention:
    """Deletes the logs of runs that ended more than ``days`` ago; 0: never. They may change."""

    def __init__(
        self, storage: Storage, journal: Journal, blobs: Blobs, intake: IntakeQuotas, days: float
    ) -> None:
        self._storage = storage
        self._journal = journal
        self._blobs = blobs
        self._intake = intake
        self.days = days

    def prune(self, tx: Tx) -> int:
        """Delete the logs of a few runs; returns the number of runs. To be called about every minute.

        Their checkouts are deleted by the next :meth:`sweep`.
        """
        if not self.days:
            return 0
        old = store.prunable_runs(tx.conn, tx.now - int(self.days * DAY_MS), BATCH)
        for run in old:
            stream = entries.run_stream(run.id)
            end = journal_store.last_of_type(tx.conn, stream, entries.RUN_COMPLETED)
            if end is not None:
                self._journal.forget(tx, stream, end)
            store.mark_pruned(tx.conn, run.id)
            artifact_store.delete_of_run(tx.conn, run.id)
            report_store.delete_of_run(tx.conn, run.id)
            self._intake.close(tx.conn, run.id)
        return len(old)

    async def sweep(self, now: int) -> int:
        """Delete blobs older than a day that no unpruned run and no known commit needs; ``now`` in ms.

        Returns their number. Needed blobs are read in pages outside of the writer; only candidates for deletion are
        checked again in the writer, against runs that were created meanwhile.
        """
        deleted, after = 0, ""
        unused = partial(checkout_store.forget_unused_commits, before=now - UNUSED_COMMIT_MS, limit=PAGE)
        while await self._storage.write(lambda tx: unused(tx.conn)) == PAGE:
            pass
        while True:
            query = partial(blob_store.old_blobs, before=now - UNUSED_MS, after=after, limit=PAGE)
            page = await self._storage.read(query)
            if not page:
                return deleted
            after = page[-1].id
            by_project: dict[str, set[str]] = defaultdict(set)
            for row in page:
                by_project[row.project].add(row.id)
            for project, ids in by_project.items():
                since = _run_id_at(time.time() - SLACK)
                ids -= await self._needed(project, min(ids))
                if ids:
                    deleted += await self._delete(project, ids, since)

    async def _needed(self, project: str, first: str) -> set[str]:
        """The blobs that the project's runs since ``first`` and its known commits refer to.

        A run is created after its uploads, so its id sorts after theirs.
        """
        read = self._storage.read
        needed = await read(lambda conn: checkout_store.packs_of_commits(conn, project))
        after = _run_id_at(_time_of(first) - SLACK)
        while page := await read(
            partial(checkout_store.checkouts_of_runs, project=project, after=after, limit=PAGE)
        ):
            for _, checkout in page:
                needed |= blob_ids(checkout)
            after = page[-1][0]
        return needed

    async def _delete(self, project: str, ids: set[str], since: str) -> int:
        def use_case(tx: Tx) -> int:
            late = checkout_store.checkouts_of_runs(tx.conn, project, since, PAGE)
            if len(late) == PAGE:
                return 0  # the writer is busy: the next sweep finds them again
            gone = ids - checkout_store.packs_of_commits(tx.conn, project)
            gone -= {blob_id for _, checkout in late for blob_id in blob_ids(checkout)}
            blob_store.delete_blobs(tx.conn, gone)
            tx.after_commit(lambda: self._blobs.unlink(gone))
            return len(gone)

        return await self._storage.write(use_case)


def _run_id_at(at: float) -> str:
    """The prefix of UUIDs of version 7 of this time (seconds since 1970)."""
    millis = f"{max(0, int(at * 1000)):012x}"
    return f"{millis[:8]}-{millis[8:]}"


def _time_of(blob_id: str) -> float:
    return int(blob_id.replace("-", "")[:12], 16) / 1000
