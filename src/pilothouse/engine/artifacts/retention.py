"""Deletes artifacts: those whose time has come, those of pruned runs, and uploads that were given up."""

from __future__ import annotations

from sqlalchemy import Connection

from pilothouse.blobs.objects import ObjectStore
from pilothouse.engine.artifacts import store
from pilothouse.engine.artifacts.model import State
from pilothouse.fleet import store as fleet_store
from pilothouse.storage import Storage, Tx

UNFINISHED_MS = 3_600_000
"""An upload that has not ended so long after it was announced is given up if its step has ended."""
BATCH = 50


class ArtifactRetention:
    """First a row is marked, which hides the artifact; then its parts are deleted, then the row."""

    def __init__(self, storage: Storage, objects: ObjectStore) -> None:
        self._storage = storage
        self._objects = objects

    async def prune(self) -> int:
        """Delete what is due; returns the number of artifacts. To be called about every minute."""
        await self._storage.write(self._mark)
        deleted = 0
        while due := await self._storage.read(lambda conn: store.deleted(conn, BATCH)):
            for artifact in due:
                await self._objects.delete(artifact.keys)
            ids = [artifact.id for artifact in due]
            await self._storage.write(lambda tx, ids=ids: store.forget(tx.conn, ids))  # type: ignore[misc]
            deleted += len(ids)
        return deleted

    def _mark(self, tx: Tx) -> None:
        store.delete_expired(tx.conn, tx.now)
        for artifact in store.unfinished(tx.conn, tx.now - UNFINISHED_MS, BATCH):
            if not _running(tx.conn, artifact.step_run_id):
                store.change(tx.conn, artifact.id, state=State.DELETING)


def _running(conn: Connection, step_run_id: str) -> bool:
    return fleet_store.lease(conn, step_run_id) is not None
