"""Engines for SQLite (embedded) and PostgreSQL.

Everything here is synchronous and runs in threads; the event loop never waits for a disk.
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

#: The tables of all packages; a test compares migrations with it.
metadata = MetaData()

READ_CONNECTIONS = 8

WRITE_CACHE, READ_CACHE = 32 << 10, 4 << 10
"""KiB of pages that a connection to SQLite keeps. A reader's are dropped after the next commit, so more of them would
only be memory that long queries fill on one connection after the other; the system caches the file."""

write_turn = Table(
    "write_turn",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("server", Text, nullable=False),
)
"""One row: the server that wrote last."""
_TAKE_TURN = """
INSERT INTO write_turn (id, server) VALUES (1, %s)
ON CONFLICT (id) DO UPDATE SET server = excluded.server WHERE write_turn.server <> excluded.server
"""


def now_ms() -> int:
    """The wall clock in milliseconds since 1970, the unit of all stored times."""
    return time.time_ns() // 1_000_000


class Database:
    """One database with two engines: one connection for writing, a few for reading.

    ``url`` is ``sqlite:///path`` or ``postgresql://…``; another one is refused (:class:`StorageUrlInvalid`).
    Reads see committed state only. Write transactions exclude each other from their beginning, across
    servers, so a use case can rely on what it has read.
    """

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        self._server = secrets.token_hex(8)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.write_engine = _sqlite_engine(self.url, begin="BEGIN IMMEDIATE", read_only=False)
            self.read_engine = _sqlite_engine(self.url, begin="BEGIN", read_only=True)
        else:
            from pilothouse.storage import postgres  # importing the driver is slow

            # Said explicitly, since a role or database may have another default: with a snapshot for the whole
            # transaction, a writer would not see what was committed while it waited for the lock.
            self.write_engine = postgres.engine(self.url, connections=2, isolation_level="READ COMMITTED")
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
        """A connection for short reads on one consistent snapshot.

        Raises :class:`StorageBusy` if all connections stay busy, :class:`StorageUnavailable` if the database
        does not answer.
        """
        try:
            connection = self.read_engine.connect()
        except PoolTimeout as error:
            raise StorageBusy("every connection to the database is busy; try again shortly") from error
        with connection:
            yield connection

    def take_turn(self, conn: Connection) -> bool:
        """Whether another server has written since this one last did; to be called at the start of a write
        transaction.

        Caches of stored state must then be verified or dropped. A SQLite file has only one server.
        """
        if self.is_sqlite:
            return False
        # Directly on the driver, since this runs in every transaction.
        return bool(driver(conn).execute(_TAKE_TURN, (self._server,)).rowcount)

    def translated(self, error: BaseException) -> BaseException:
        """Translate an error of a transaction: :class:`StorageUnavailable` if the database is unavailable."""
        return outages.translated(self.write_engine, error)

    def close(self) -> None:
        """Close all connections; a SQLite file is then complete without its WAL."""
        self.read_engine.dispose()
        self.write_engine.dispose()


def _parsed(url: str) -> URL:
    # The URL is not repeated in the error, since it may contain a password.
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
    # sqlite3 would begin transactions implicitly, too late and of the wrong kind, so BEGIN is explicit.
    engine = create_engine(
        url,
        pool_size=READ_CONNECTIONS if read_only else 1,
        max_overflow=0,
        hide_parameters=True,  # parameters in errors and logs could be secret
        connect_args={"timeout": 30, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{READ_CACHE if read_only else WRITE_CACHE}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver(connection).execute(begin)

    return engine


def driver(connection: Connection) -> Any:
    """The driver's connection (of ``sqlite3`` or ``psycopg``), in the same transaction.

    For the statements of every commit, where SQLAlchemy costs ten times as much as SQLite.
    """
    return connection.connection.dbapi_connection
