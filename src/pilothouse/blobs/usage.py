"""What counts towards the quotas of a project and of a user: blobs and uploads together."""

from __future__ import annotations

from sqlalchemy import Connection

from pilothouse.blobs import store
from pilothouse.blobs.assets import store as asset_store
from pilothouse.blobs.store import Use


def use_of(conn: Connection, project: str, user: str) -> Use:
    """Number and bytes of a project's files, and bytes of a user's (by name) that no run has used."""
    blobs = store.use_of(conn, project, user)
    number, size = asset_store.use_of(conn, project)
    return Use(blobs.number + number, blobs.size + size, blobs.unused)
