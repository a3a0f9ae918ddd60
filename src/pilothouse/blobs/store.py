"""The table of blobs, and its SQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    not_,
    select,
    text,
    true,
    update,
)

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
    Column("used", Boolean, nullable=False, server_default=true()),
    Index("blobs_by_project", "project", "size"),
    Index("blobs_unused", "created_by", sqlite_where=text("NOT used")),
)


class Use(NamedTuple):
    """What is stored: number and bytes of a project's blobs, and bytes of a user's that no run has used."""

    number: int
    size: int
    unused: int


def use_of(conn: Connection, project: str, user: str) -> Use:
    """What counts towards the quotas of a project and of a user (by name)."""
    number, size = conn.execute(
        select(func.count(), func.coalesce(func.sum(blobs.c.size), 0)).where(blobs.c.project == project)
    ).one()
    mine = (blobs.c.created_by == user) & not_(blobs.c.used)
    unused = conn.execute(select(func.coalesce(func.sum(blobs.c.size), 0)).where(mine)).scalar_one()
    return Use(int(number), int(size), int(unused))


def mark_used(conn: Connection, ids: Collection[str]) -> None:
    """Record that a run uses these blobs."""
    conn.execute(update(blobs).where(blobs.c.id.in_(ids), not_(blobs.c.used)).values(used=True))


def existing_blobs(conn: Connection, ids: Collection[str]) -> set[str]:
    """Those of these ids that are blobs."""
    return set(conn.execute(select(blobs.c.id).where(blobs.c.id.in_(ids))).scalars())


def add_blob(conn: Connection, **values: Any) -> None:
    """Insert a blob."""
    conn.execute(insert(blobs).values(used=False, **values))


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
