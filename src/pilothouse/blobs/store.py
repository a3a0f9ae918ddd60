"""The table of blobs, and its SQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Row, Table, Text, delete, insert, select

from pilothouse.storage import metadata

blobs = Table(
    "blobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)


def add_blob(conn: Connection, **values: Any) -> None:
    """Insert a blob."""
    conn.execute(insert(blobs).values(**values))


def blob(conn: Connection, blob_id: str) -> Row[Any] | None:
    """The row of a blob."""
    return conn.execute(select(blobs).where(blobs.c.id == blob_id)).first()


def blobs_of(conn: Connection, project: str, ids: Collection[str]) -> list[Row[Any]]:
    """The existing ones of these blobs in the project."""
    return list(conn.execute(select(blobs).where(blobs.c.id.in_(ids), blobs.c.project == project)))


def old_blobs(conn: Connection, before: int, after: str, limit: int) -> list[Row[Any]]:
    """A page of the blobs uploaded before a time (ms), by id."""
    query = select(blobs.c.id, blobs.c.project).where(blobs.c.created_at < before, blobs.c.id > after)
    return list(conn.execute(query.order_by(blobs.c.id).limit(limit)))


def delete_blobs(conn: Connection, ids: Collection[str]) -> None:
    """Delete blobs."""
    conn.execute(delete(blobs).where(blobs.c.id.in_(ids)))
