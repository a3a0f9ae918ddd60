"""A PostgreSQL server of our own, which tests may create databases in, restart and crash."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from support.waiting import PATIENCE

BINARIES = Path("/usr/lib/postgresql")

_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "track_commit_timestamp": "on",
}
_EMPTY_ALL = """
DO $$
DECLARE one text;
BEGIN
  SET LOCAL session_replication_role = replica;  -- foreign keys or not
  FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
    EXECUTE format('DELETE FROM %I', one);
  END LOOP;
END $$
"""


class Postgres:
    """A PostgreSQL server that ends with this process. A socket's path is short: so must the directory's be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.idle: list[str] = []
        self._binaries = binaries()
        self._made = 0
        self._as = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if _root() else ["setpriv"]
        )
        if _root():
            shutil.chown(directory, "postgres", "postgres")
        initdb = [self._binaries / "initdb", "-D", self.data, "-U", "pilot", "-A", "trust", "-E", "UTF8"]
        options = ["--no-locale", "--no-sync"]
        subprocess.run([*self._as, *initdb, *options], check=True, capture_output=True, cwd="/")
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    # -- the process ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self.directory)}
        told = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # It is killed with this process, or it would be left running.
        command = [*self._as, "--pdeathsig", "QUIT", self._binaries / "postgres", "-D", self.data, *told]
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()}") from error
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """End it: at once and without a checkpoint, as in a crash (SIGQUIT), or orderly (SIGINT)."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def hang_up(self, database: str) -> int:
        """End every connection to a database (pg_terminate_backend); returns how many there were."""
        found = self.ask(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        return len(found)

    # -- databases in it --------------------------------------------------------------------------------

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside of any transaction."""
        with self._connected(database) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of one query."""
        with self._connected(database) as connection:
            return list(connection.execute(statement).fetchall())  # type: ignore[call-overload]

    def create(self, template: str = "template1") -> str:
        """A new database; returns its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, closing its connections; does nothing if it does not exist."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def recycle(self, name: str) -> None:
        """Empty every table of a database that kept its shape: 50 times as fast as a new one."""
        self.hang_up(name)
        self.execute(_EMPTY_ALL, name)
        self.idle.append(name)

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a test's database."""
        return f"postgresql+psycopg://pilot@/{name}?host={self.directory}"

    def files(self) -> Iterator[Path]:
        """All files that hold what was written, the write-ahead log included."""
        self.execute("CHECKPOINT")
        return (path for part in ("base", "pg_wal") for path in (self.data / part).rglob("*"))

    def _connected(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        where = {"host": str(self.directory), "user": "pilot", "dbname": database}
        return psycopg.connect(**where, autocommit=True)


def binaries() -> Path:
    """Where PostgreSQL's programs are, if there are any."""
    found = sorted(BINARIES.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return found[0] if found else BINARIES


def _root() -> bool:
    return os.geteuid() == 0
