"""The tables of the journal and their statements."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    LargeBinary,
    Table,
    Text,
    delete,
    false,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import sqlite

from pilothouse.journal.model import Entry
from pilothouse.storage import driver, metadata

# SQLite only stores a table in the order of its key if the key is an INTEGER.
_Offset = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")

entries = Table(
    "entries",
    metadata,
    Column("offset", _Offset, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("scope", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("entries_by_stream", "stream", "offset"),
)

journal_head = Table(
    "journal_head",
    metadata,
    Column("id", _Offset, primary_key=True, autoincrement=False),
    Column("epoch", Text, nullable=False),
    Column("next", BigInteger, nullable=False),
    # Whether a server keeps the head outside of the database, too (server/epoch.py).
    Column("kept_outside", Boolean, nullable=False, server_default=false()),
)

watermarks = Table(
    "stream_watermarks",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("below", BigInteger, nullable=False),
)

WHOLE = ""
"""The watermark row of the whole journal: the maximum of all streams' watermarks."""

_COLUMNS = (
    entries.c.offset,
    entries.c.stream,
    entries.c.subject,
    entries.c.type,
    entries.c.at,
    entries.c.scope,
    entries.c.data,
)
# The two statements of every commit, run directly on the driver.
_RESERVE = 'UPDATE journal_head SET "next" = "next" + ? RETURNING "next"'
_APPEND = """
INSERT INTO entries ("offset", stream, subject, type, at, scope, data) VALUES (?, ?, ?, ?, ?, ?, ?)
"""


def epoch(conn: Connection) -> str:
    """The epoch of the journal: a random name that changes when cursors must become invalid."""
    return str(conn.execute(select(journal_head.c.epoch)).scalar_one())


@dataclass(frozen=True, slots=True)
class JournalHead:
    """The epoch, the next offset, and whether a server keeps them outside of the database, too."""

    epoch: str
    next: int
    kept_outside: bool


def head(conn: Connection) -> JournalHead | None:
    """The committed head; ``None`` for a database without a journal."""
    row = conn.execute(select(journal_head)).first()
    return None if row is None else JournalHead(row.epoch, row.next, bool(row.kept_outside))


def set_epoch(conn: Connection, name: str) -> None:
    """Begin a new epoch: all cursors become invalid."""
    conn.execute(update(journal_head).values(epoch=name))


def mark_kept_outside(conn: Connection) -> None:
    """From now on a server keeps the head outside of the database, too."""
    conn.execute(update(journal_head).values(kept_outside=True))


def entry_digest(conn: Connection, offset: int) -> str:
    """A digest of the entry at ``offset``; ``""`` if there is none, or none any more."""
    row = conn.execute(select(*_COLUMNS).where(entries.c.offset == offset)).first()
    if row is None:
        return ""
    parts = (row.stream, row.subject, row.type, str(row.at), row.scope)
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + bytes(row.data)).hexdigest()


def create_head(conn: Connection, name: str) -> None:
    """Create the head row of a new journal: its epoch and offset 1. Does nothing if it exists."""
    if conn.execute(select(journal_head.c.id)).first() is None:
        conn.execute(insert(journal_head).values(id=1, epoch=name, next=1))


def next_offset(conn: Connection) -> int:
    """The committed offset of the next entry."""
    return int(conn.execute(select(journal_head.c.next)).scalar_one())


def reserve(conn: Connection, count: int) -> int:
    """Reserve ``count`` offsets and return the first; the row lock, held until the commit, makes offset order
    commit order."""
    cursor = driver(conn).execute(_for_driver(conn, _RESERVE), (count,))
    return int(cursor.fetchone()[0]) - count


def append(conn: Connection, batch: Iterable[Entry]) -> None:
    """Insert numbered entries."""
    rows = [(e.offset, e.stream, e.subject, e.type, e.at, e.scope, e.data) for e in batch]
    driver(conn).cursor().executemany(_for_driver(conn, _APPEND), rows)


def _for_driver(conn: Connection, statement: str) -> str:
    return statement if conn.dialect.paramstyle == "qmark" else statement.replace("?", "%s")


def page(
    conn: Connection,
    stream: str | None,
    start: int,
    *,
    subject: str | None = None,
    rows: int = 256,
    size: int = 256 << 10,
) -> tuple[list[Entry], bool]:
    """Entries from offset ``start`` on, of one stream or all; about ``rows`` entries or ``size`` bytes at most.

    The second value is whether there may be further entries.
    """
    statement = select(*_COLUMNS).where(entries.c.offset >= start).order_by(entries.c.offset).limit(rows)
    if stream is not None:
        statement = statement.where(entries.c.stream == stream)
    if subject is not None:
        statement = statement.where(entries.c.subject == subject)
    found: list[Entry] = []
    total = 0
    with conn.execute(statement) as result:
        for row in result:
            found.append(Entry(*row))
            total += len(row.data)
            if total >= size:
                return found, True
    return found, len(found) == rows


def selected(
    conn: Connection,
    stream: str,
    start: int,
    end: int,
    *,
    types: Collection[str],
    subjects: Collection[str] = (),
    since: int = 0,
    backwards: bool = False,
    rows: int = 256,
    size: int = 256 << 10,
) -> tuple[list[Entry], bool]:
    """A page of the stream's entries of these types between two offsets (``end`` excluded), newest first if
    ``backwards``; only of ``subjects`` if given, and not older than ``since`` (ms).

    The second value is whether there may be further entries.
    """
    wanted = [entries.c.stream == stream, entries.c.offset >= start, entries.c.offset < end]
    wanted.append(entries.c.type.in_(types))
    if subjects:
        wanted.append(entries.c.subject.in_(subjects))
    if since:
        wanted.append(entries.c.at >= since)
    order = entries.c.offset.desc() if backwards else entries.c.offset
    found: list[Entry] = []
    total = 0
    with conn.execute(select(*_COLUMNS).where(*wanted).order_by(order).limit(rows)) as result:
        for row in result:
            found.append(Entry(*row))
            total += len(row.data)
            if total >= size:
                return found, True
    return found, len(found) == rows


def scope_of(conn: Connection, stream: str) -> str | None:
    """The scope of a stream's entries, which all have the same; ``None`` if there are none."""
    statement = select(entries.c.scope).where(entries.c.stream == stream).order_by(entries.c.offset).limit(1)
    return conn.execute(statement).scalar_one_or_none()


def last_of_type(conn: Connection, stream: str, type: str) -> int | None:
    """The offset of the newest entry of this type in the stream."""
    statement = (
        select(entries.c.offset)
        .where(entries.c.stream == stream, entries.c.type == type)
        .order_by(entries.c.offset.desc())
        .limit(1)
    )
    return conn.execute(statement).scalar_one_or_none()


def retained_from(conn: Connection, stream: str | None) -> int:
    """The oldest offset from which the stream (``None``: the whole journal) is complete."""
    name = WHOLE if stream is None else stream
    found = conn.execute(select(watermarks.c.below).where(watermarks.c.stream == name)).scalar_one_or_none()
    return found or 0


def forget(conn: Connection, stream: str, below: int) -> int:
    """Delete a stream's entries below an offset and raise its watermark; returns their number."""
    gone = conn.execute(delete(entries).where(entries.c.stream == stream, entries.c.offset < below)).rowcount
    for name in (stream, WHOLE):
        known = conn.execute(
            select(watermarks.c.below).where(watermarks.c.stream == name)
        ).scalar_one_or_none()
        if known is None:
            conn.execute(insert(watermarks).values(stream=name, below=below))
        elif known < below:
            conn.execute(update(watermarks).where(watermarks.c.stream == name).values(below=below))
    return gone


def excess(conn: Connection, stream: str, rows: int, size: int) -> int:
    """The offset below which the stream has more than so many entries or bytes of data; 0 if it has not."""
    statement = (
        select(entries.c.offset, func.length(entries.c.data))
        .where(entries.c.stream == stream)
        .order_by(entries.c.offset.desc())
        .limit(rows + 1)
    )
    total = kept = 0
    for count, (offset, length) in enumerate(conn.execute(statement)):
        total += length
        if count == rows or (total > size and kept):
            return kept
        kept = offset
    return 0


def count(conn: Connection) -> int:
    """The number of stored entries."""
    return conn.execute(select(func.count()).select_from(entries)).scalar_one()
