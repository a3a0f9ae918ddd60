"""Both databases, for real: a SQLite file, and a PostgreSQL server of our own.

PostgreSQL is started once in each test process from /usr/lib/postgresql/*/bin, in a temporary directory, without
TCP and without fsync. Every test gets a database of its own, copied from a migrated template or left empty by the
test before. A machine without PostgreSQL fails these tests and says so; it does not skip them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from pilothouse.storage import Database
from pilothouse.storage.migrations import upgrade

BINARIES = Path("/usr/lib/postgresql")
START_WITHIN = 30.0


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
    """A PostgreSQL server that ends with this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._binaries = _newest_binaries()
        self._made = 0
        self.spare: list[str] = []
        self._as = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if _root() else ["setpriv"]
        )
        if _root():
            shutil.chown(directory, "postgres", "postgres")
        initdb = [self._binaries / "initdb", "-D", self.data, "-U", "pilot", "-A", "trust", "-E", "UTF8"]
        options = ["--no-locale", "--no-sync"]
        subprocess.run([*self._as, *initdb, *options], check=True, capture_output=True, cwd="/")
        self._log = directory / "log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "max_connections": "60",
        }
        told = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # It dies with us, even if we are killed: nobody would find it again.
        command = [*self._as, "--pdeathsig", "QUIT", self._binaries / "postgres", "-D", self.data, *told]
        with self._log.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        end = time.monotonic() + START_WITHIN
        while True:
            try:
                self.execute("SELECT 1")
                return process
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()}") from error
            time.sleep(0.05)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside of any transaction."""
        where = {"host": str(self.directory), "user": "pilot", "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def create(self, template: str = "template1") -> str:
        """A new database; gives its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def recycle(self, name: str) -> None:
        """Empty every table of a database that kept its shape: 50 times as fast as a new one."""
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        self.execute(_EMPTY_ALL, name)
        self.spare.append(name)

    def url(self, name: str) -> str:
        """How SQLAlchemy reaches a database of ours."""
        return f"postgresql+psycopg://pilot@/{name}?host={self.directory}"

    def stop(self) -> None:
        """End at once; nothing here is worth a clean shutdown."""
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class Backend:
    """One kind of database, which makes as many as a test wants."""

    name: str
    directory: Path
    template: str
    server: Postgres | None = None
    made: list[str] = field(default_factory=list)
    shared: str = ""

    def share(self) -> str:
        """The URL of a migrated database whose shape the test leaves alone: another may have it after this one."""
        if self.server is None:
            return self.create()
        self.shared = self.server.spare.pop() if self.server.spare else self.server.create(self.template)
        return self.server.url(self.shared)

    def create(self, *, migrated: bool = True) -> str:
        """The URL of a new database; not ``migrated``: without a single table."""
        if self.server is not None:
            self.made.append(self.server.create(self.template if migrated else "template1"))
            return self.server.url(self.made[-1])
        path = self.directory / f"test_{len(self.made)}.db"
        self.made.append(str(path))
        if migrated:
            shutil.copyfile(self.template, path)
        return f"sqlite:///{path}"

    def raw_bytes(self) -> Iterator[tuple[Path, bytes]]:
        """All files that hold what was written, the write-ahead log included."""
        if self.server is None:
            files = [path for made in self.made for path in Path(made).parent.glob(Path(made).name + "*")]
        else:
            self.server.execute("CHECKPOINT")
            files = [p for part in ("base", "pg_wal") for p in (self.server.data / part).rglob("*")]
        for path in files:
            if path.is_file():
                yield path, path.read_bytes()

    def drop(self) -> None:
        """Remove what was made."""
        if self.server is not None:
            for name in self.made:
                self.server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            if self.shared:
                self.server.recycle(self.shared)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this test process. A socket's path is short, so it is not in pytest's directory."""
    if not _newest_binaries().joinpath("postgres").exists():
        pytest.fail(f"these tests need PostgreSQL, and there is none in {BINARIES}/*/bin: install postgresql")
    directory = Path(tempfile.mkdtemp(prefix="pilot-pg-"))
    try:
        server = Postgres(directory)
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    _migrate(f"sqlite:///{path}")
    return str(path)


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> str:
    """A migrated PostgreSQL database to copy."""
    name = postgres.create()
    _migrate(postgres.url(name))
    return name


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        backend = Backend("sqlite", tmp_path, request.getfixturevalue("migrated_sqlite"))
    else:
        template = request.getfixturevalue("migrated_postgres")
        backend = Backend("postgresql", tmp_path, template, request.getfixturevalue("postgres"))
    yield backend
    backend.drop()


@pytest.fixture
def database(backend: Backend) -> Iterator[Database]:
    """A migrated database without a row."""
    database = Database(backend.share())
    yield database
    database.close()


def reopened(database: Database) -> Database:
    """The same database as another process would open it."""
    return Database(database.url.render_as_string(hide_password=False))


def _migrate(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


def _root() -> bool:
    return os.geteuid() == 0


def _newest_binaries() -> Path:
    found = sorted(BINARIES.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return found[0] if found else BINARIES
