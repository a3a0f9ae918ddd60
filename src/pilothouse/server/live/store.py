"""The table of changed settings, and its SQL."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from sqlalchemy import BigInteger, Column, Connection, Table, Text, delete, insert, select

from pilothouse.storage import metadata

#: ``value`` is JSON.
settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)


class Changed(NamedTuple):
    """A setting that was changed; ``at`` in ms."""

    value: Any
    by: str
    at: int


def changed_settings(conn: Connection) -> dict[str, Changed]:
    """All changed settings by name."""
    rows = conn.execute(select(settings).order_by(settings.c.name))
    return {row.name: Changed(orjson.loads(row.value), row.changed_by, row.changed_at) for row in rows}


def put_setting(conn: Connection, name: str, value: Any, by: str, now: int) -> None:
    """Set a setting."""
    drop_setting(conn, name)
    text = orjson.dumps(value).decode()
    conn.execute(insert(settings).values(name=name, value=text, changed_by=by, changed_at=now))


def drop_setting(conn: Connection, name: str) -> None:
    """Give a setting its value of the server's start again."""
    conn.execute(delete(settings).where(settings.c.name == name))
