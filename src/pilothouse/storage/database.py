"""Engines for SQLite (embedded) and PostgreSQL (beyond one machine).

Everything here is synchronous and meant for threads: the event loop never waits for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine import make_url

#: Every table of every package hangs here; migrations are compared against it by a test.
metadata = MetaData()

READ_CONNECTIONS = 8


def now_ms() -> int:
    """The wall clock in milliseconds since 1970, the unit of every stored time."""
    return time.time_ns() // 1_000_000


class Database:
    """One database, seen through two engines: one connection that writes, a few that read.

    ``url`` is ``sqlite:///path`` or ``postgresql+psycopg://…``. Reads see committed state only.
    """

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.write_engine = _sqlite_engine(url, begin="BEGIN IMMEDIATE", read_only=False)
            self.read_engine = _sqlite_engine(url, begin="BEGIN", read_only=True)
        else:
            self.write_engine = create_engine(url, pool_size=2, max_overflow=0, pool_pre_ping=True)
            self.read_engine = create_engine(
                url,
                pool_size=READ_CONNECTIONS,
                max_overflow=0,
                pool_pre_ping=True,
                isolation_level="REPEATABLE READ",
            )

    @classmethod
    def at(cls, path: Path) -> Database:
        """The embedded database in file ``path``."""
        return cls(f"sqlite:///{path}")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for a short page of reads, on one consistent snapshot."""
        with self.read_engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection; the database file is then complete by itself."""
        self.read_engine.dispose()
        self.write_engine.dispose()


def _sqlite_engine(url: str, *, begin: str, read_only: bool) -> Engine:
    # sqlite3 would begin transactions by itself, too late and of the wrong kind: we say BEGIN ourselves.
    engine = create_engine(
        url,
        pool_size=READ_CONNECTIONS if read_only else 1,
        max_overflow=0,
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
