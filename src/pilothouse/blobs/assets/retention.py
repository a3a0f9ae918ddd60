"""Deletes uploads: those that users have deleted, those that were given up, and what crashes have left behind."""

from __future__ import annotations

from functools import partial

from pilothouse.blobs.assets import store
from pilothouse.blobs.assets.model import EXPIRY_MS
from pilothouse.blobs.objects import ObjectStore
from pilothouse.storage import Storage, Tx

BATCH = 20
STALE = 500
"""Parts that were not stored, deleted at a time."""


class AssetRetention:
    """First a row is marked, which hides the upload; then its parts are deleted, then the rows."""

    def __init__(self, storage: Storage, objects: ObjectStore) -> None:
        self._storage = storage
        self._objects = objects

    async def prune(self) -> int:
        """Delete what is due; returns the number of uploads. To be called about every minute."""
        now = await self._storage.write(_expire)
        deleted = 0
        while ids := await self._storage.read(lambda conn: store.deleted(conn, BATCH)):
            keys = await self._storage.read(partial(store.keys_of, ids=ids))
            await self._objects.delete(keys)
            await self._storage.write(lambda tx, ids=ids: store.forget(tx.conn, ids))  # type: ignore[misc]
            deleted += len(ids)
        stale = await self._storage.read(lambda conn: store.stale_parts(conn, now - EXPIRY_MS, STALE))
        if stale:
            await self._objects.delete(stale)
            await self._storage.write(lambda tx: store.forget_parts(tx.conn, stale))
        return deleted


def _expire(tx: Tx) -> int:
    store.expire(tx.conn, tx.now)
    return tx.now
