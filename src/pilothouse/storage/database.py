"""Engines for SQLite (embedded) and PostgreSQL (beyond one machine).

Everything here is synchronous and meant for threads: the event loop never waits for a disk.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pilothouse.storage import outages
from pilothouse.storage.errors import StorageBusy, StorageUrlInvalid

#: Every table of every package hangs here; migrations are compared against it by a test.
metadata = MetaData()

READ_CONNECTIONS = 8

write_turn = Table(
    "write_turn",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("server", Text, nullable=False),
)
"""One row: the server that has written last."""
_TAKE_TURN = """
INSERT INTO write_turn (id, server) VALUES (1, %s)
ON CONFLICT (id) DO UPDATE SET server = excluded.server WHERE write_turn.server <> excluded.server
"""


def now_ms() -> int:
    """The wall clock in milliseconds since 1970, the unit of every stored time."""
    return time.time_ns() // 1_000_000


class Database:
    """One database, seen through two engines: one connection that writes, a few that read.

    ``url`` is ``sqlite:///path`` or ``postgresql://…``; another one is refused (:class:`StorageUrlInvalid`). Reads
    see committed state only. Transactions that write exclude each other from their beginning on, those of other
    servers too: a use case may rely on what it has read.
    """

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        self._server = secrets.token_hex(8)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.write_engine = _sqlite_engine(self.url, begin="BEGIN IMMEDIATE", read_only=False)
            self.read_engine = _sqlite_engine(self.url, begin="BEGIN", read_only=True)
        else:
            from pilothouse.storage import postgres  # its driver takes long to import

            self.write_engine = postgres.engine(self.url, connections=2)
            postgres.one_at_a_time(self.write_engine)
            self.read_engine = postgres.engine(
                self.url, connections=READ_CONNECTIONS, isolation_level="REPEATABLE READ"
            )
        for engine in (self.write_engine, self.read_engine):
            outages.translate(engine)

    @classmethod
    def at(cls, path: Path) -> Database:
        """The embedded database in file ``path``."""
        return cls(f"sqlite:///{path}")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for a short page of reads, on one consistent snapshot.

        Raises :class:`StorageBusy` when no connection gets free, :class:`StorageUnavailable` when there is none.
        """
        try:
            connection = self.read_engine.connect()
        except PoolTimeout as error:
            raise StorageBusy("every connection to the database is busy; try again shortly") from error
        with connection:
            yield connection

    def take_turn(self, conn: Connection) -> bool:
        """Whether another server has written since this one did; for a transaction that writes, at its beginning.

        What is kept in memory of what is stored must then be forgotten. A file of SQLite has one server only.
        """
        if self.is_sqlite:
            return False
        # The driver itself, as every transaction pays for this.
        return bool(driver(conn).execute(_TAKE_TURN, (self._server,)).rowcount)

    def told(self, error: BaseException) -> BaseException:
        """What befell a transaction, as callers know it: :class:`StorageUnavailable` if the database is away."""
        return outages.told(self.write_engine, error)

    def close(self) -> None:
        """Close every connection; the database file is then complete by itself."""
        self.read_engine.dispose()
        self.write_engine.dispose()


def _parsed(url: str) -> URL:
    # Whatever is wrong with it, it is not repeated: it may hold a password.
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StorageUrlInvalid("the database's URL cannot be read: postgresql://user@host/name?…") from None
    if parsed.drivername == "sqlite":
        return parsed
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise StorageUrlInvalid(f"a database of kind {parsed.drivername} is not supported: postgresql is")


def _sqlite_engine(url: URL, *, begin: str, read_only: bool) -> Engine:
    # sqlite3 would begin transactions by itself, too late and of the wrong kind: we say BEGIN ourselves.
    engine = create_engine(
        url,
        pool_size=READ_CONNECTIONS if read_only else 1,
        max_overflow=0,
        hide_parameters=True,  # in errors and logs: they may be secret
        connect_args={"timeout": 30, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver(connection).execute(begin)

    return engine


def driver(connection: Connection) -> Any:
    """The driver's own connection (of ``sqlite3`` or ``psycopg``), in the same transaction.

    For the few statements that every commit runs: SQLAlchemy costs ten times what SQLite takes for them.
    """
    return connection.connection.dbapi_connection
