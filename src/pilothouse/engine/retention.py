"""Retention: what finished runs keep, and for how long; and which uploads are still needed.

A run itself, its jobs, steps and attempts stay; its log and its checkout go. A cursor into what is gone is
answered with 410, and a new reader of the run still learns how it ended.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial

from pilothouse.blobs import store as blob_store
from pilothouse.blobs.service import Blobs
from pilothouse.engine import checkout_store, store
from pilothouse.engine.checkouts import blob_ids
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
    """Forgets the logs of runs that ended more than ``days`` ago; 0 days: never."""

    def __init__(self, storage: Storage, journal: Journal, blobs: Blobs, days: float) -> None:
        self._storage = storage
        self._journal = journal
        self._blobs = blobs
        self._days = days

    def prune(self, tx: Tx) -> int:
        """Forget a few runs' logs; returns how many runs. Run this about every minute.

        Their checkouts go with the next :meth:`sweep`.
        """
        if not self._days:
            return 0
        old = store.prunable_runs(tx.conn, tx.now - int(self._days * DAY_MS), BATCH)
        for run in old:
            stream = entries.run_stream(run.id)
            end = journal_store.last_of_type(tx.conn, stream, entries.RUN_COMPLETED)
            if end is not None:
                self._journal.forget(tx, stream, end)
            store.mark_pruned(tx.conn, run.id)
        return len(old)

    async def sweep(self, now: int) -> int:
        """Delete blobs older than a day that no run (that is not pruned) and no known commit needs; ``now`` in ms.

        Gives how many. What is needed is read page by page beside all other work; only what may go is looked at
        again in the writer, against the runs that began meanwhile.
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
        """The blobs that the project's runs since that blob, and its known commits, refer to.

        A run comes after its uploads, and so do their ids.
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
                return 0  # a busy time: the next sweep finds them again
            gone = ids - checkout_store.packs_of_commits(tx.conn, project)
            gone -= {blob_id for _, checkout in late for blob_id in blob_ids(checkout)}
            blob_store.delete_blobs(tx.conn, gone)
            tx.after_commit(lambda: self._blobs.unlink(gone))
            return len(gone)

        return await self._storage.write(use_case)


def _run_id_at(at: float) -> str:
    """What ids (UUIDs of version 7) of that time (seconds since 1970) begin with."""
    millis = f"{max(0, int(at * 1000)):012x}"
    return f"{millis[:8]}-{millis[8:]}"


def _time_of(blob_id: str) -> float:
    return int(blob_id.replace("-", "")[:12], 16) / 1000
