"""The tables of uploads and their parts, and their SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from pilothouse.blobs.assets.model import Asset, Part, State
from pilothouse.storage import metadata
from pilothouse.storage.counting import count_ahead

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ready_at", BigInteger, nullable=False),
    Column("expire_at", BigInteger, nullable=False),
    Index("uploads_by_project", "project", "size"),
    Index("uploads_by_creator", "project", "creator_id", "id"),
    Index("uploads_unfinished", "state", "expire_at", sqlite_where=text("state <> 'ready'")),
)

#: ``size`` 0: it is being received, or was not received completely.
upload_parts = Table(
    "upload_parts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("upload_id", Text, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("upload_parts_by_upload", "upload_id", "start"),
    Index("upload_parts_unfinished", "created_at", sqlite_where=text("size = 0")),
)

_FIELDS = [field.name for field in fields(Asset)]
_UNFINISHED, _NOT_STORED = text("state <> 'ready'"), text("size = 0")
"""As in the partial indexes, which SQLite uses for these words only."""
_SEEN = uploads.c.state.in_([State.UPLOADING.value, State.READY.value])


def use_of(conn: Connection, project: str) -> tuple[int, int]:
    """Number and bytes (as announced) of a project's uploads, until they are deleted."""
    query = select(func.count(), func.coalesce(func.sum(uploads.c.size), 0))
    number, size = conn.execute(query.where(uploads.c.project == project)).one()
    return int(number), int(size)


def add(conn: Connection, asset: Asset) -> None:
    """Insert an upload."""
    conn.execute(insert(uploads).values(**{name: _plain(getattr(asset, name)) for name in _FIELDS}))


def change(conn: Connection, asset_id: str, **values: Any) -> None:
    """Set columns of an upload."""
    plain = {name: _plain(value) for name, value in values.items()}
    conn.execute(update(uploads).where(uploads.c.id == asset_id).values(**plain))


def find(conn: Connection, asset_id: str) -> Asset | None:
    """An upload that is not being deleted, also one that nobody sees yet."""
    query = select(uploads).where(uploads.c.id == asset_id, uploads.c.state != State.DELETING.value)
    row = conn.execute(query).first()
    return _asset(row) if row else None


def listed(
    conn: Connection, project: str, creator_id: str | None, offset: int, limit: int
) -> tuple[list[Asset], int]:
    """A page of a project's uploads, newest first (``creator_id``: only those of this user), and their number."""
    query = select(uploads).where(uploads.c.project == project, _SEEN)
    if creator_id is not None:
        query = query.where(uploads.c.creator_id == creator_id)
    total = count_ahead(conn, query, offset)
    rows = conn.execute(query.order_by(uploads.c.id.desc()).offset(offset).limit(limit))
    return [_asset(row) for row in rows], total


def expire(conn: Connection, now: int) -> int:
    """Hide unfinished uploads that have expired, and have their parts deleted; returns their number."""
    u = uploads.c
    late = u.state.in_([State.RECEIVING.value, State.UPLOADING.value]) & (u.expire_at <= now)
    return conn.execute(update(uploads).where(late, _UNFINISHED).values(state=State.DELETING.value)).rowcount


def delete_of_project(conn: Connection, project: str, limit: int = 500) -> bool:
    """Hide some of a project's uploads, and have their parts deleted; whether there may be more."""
    u = uploads.c
    some = select(u.id).where(u.project == project, u.state != State.DELETING.value).limit(limit)
    gone = update(uploads).where(u.id.in_(some.scalar_subquery())).values(state=State.DELETING.value)
    return conn.execute(gone).rowcount == limit


def deleted(conn: Connection, limit: int) -> list[str]:
    """The ids of some of the uploads that are being deleted."""
    query = select(uploads.c.id).where(uploads.c.state == State.DELETING.value, _UNFINISHED)
    return list(conn.execute(query.limit(limit)).scalars())


def forget(conn: Connection, ids: Collection[str]) -> None:
    """Delete the rows of uploads and parts whose objects are deleted."""
    gone = select(uploads.c.id).where(uploads.c.id.in_(ids), uploads.c.state == State.DELETING.value)
    conn.execute(delete(upload_parts).where(upload_parts.c.upload_id.in_(gone)))
    conn.execute(delete(uploads).where(uploads.c.id.in_(ids), uploads.c.state == State.DELETING.value))


# -- parts ----------------------------------------------------------------------------------------------


def add_part(conn: Connection, key: str, asset_id: str, start: int, now: int) -> None:
    """Announce an object that is going to be stored."""
    conn.execute(
        insert(upload_parts).values(key=key, upload_id=asset_id, start=start, size=0, created_at=now)
    )


def finish_part(conn: Connection, key: str, size: int) -> bool:
    """The object is stored; ``False`` if the part is not known any more."""
    done = update(upload_parts).where(upload_parts.c.key == key).values(size=size)
    return conn.execute(done).rowcount == 1


def count_parts(conn: Connection, asset_id: str) -> int:
    """Parts of an upload, also those that are being received."""
    query = select(func.count()).where(upload_parts.c.upload_id == asset_id)
    return int(conn.execute(query).scalar_one())


def parts_of(conn: Connection, asset_id: str) -> list[Part]:
    """The stored parts of an upload, in order."""
    p = upload_parts.c
    query = select(p.key, p.start, p.size).where(p.upload_id == asset_id, p.size > 0).order_by(p.start)
    return [Part(*row) for row in conn.execute(query)]


def keys_of(conn: Connection, ids: Sequence[str]) -> list[str]:
    """The objects of these uploads, also those that may not be there."""
    return list(conn.execute(select(upload_parts.c.key).where(upload_parts.c.upload_id.in_(ids))).scalars())


def stale_parts(conn: Connection, before: int, limit: int) -> list[str]:
    """Some of the objects that were announced before a time and not stored."""
    p = upload_parts.c
    return list(conn.execute(select(p.key).where(_NOT_STORED, p.created_at < before).limit(limit)).scalars())


def forget_parts(conn: Connection, keys: Collection[str]) -> None:
    """Delete the rows of parts whose objects are deleted."""
    conn.execute(delete(upload_parts).where(upload_parts.c.key.in_(keys)))


def _asset(row: Row[Any]) -> Asset:
    values = {name: getattr(row, name) for name in _FIELDS}
    return Asset(**{**values, "state": State(values["state"])})


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, State) else value
