"""Both databases, for real: a SQLite file, and a PostgreSQL server of our own.

PostgreSQL is started once in each test process from /usr/lib/postgresql/*/bin, in a temporary directory, without
TCP and without fsync. Every test gets a database of its own, copied from a migrated template or left empty by the
test before. A machine without PostgreSQL fails these tests and says so; it does not skip them.

Tests of storage run on both in turn (fixture ``backend``). Tests that start a server run on the one that
``PILOT_TEST_DATABASE`` names, ``sqlite`` or ``postgresql``; ``make test-all`` runs them once on each.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pilothouse.storage import Database
from pilothouse.storage.migrations import upgrade
from support.postgres import BINARIES, Postgres, binaries

CHOSEN = os.environ.get("PILOT_TEST_DATABASE", "sqlite")
assert CHOSEN in ("sqlite", "postgresql"), "PILOT_TEST_DATABASE is sqlite or postgresql"


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
        self.shared = self.server.idle.pop() if self.server.idle else self.server.create(self.template)
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
            files = (path for made in self.made for path in Path(made).parent.glob(Path(made).name + "*"))
        else:
            files = self.server.files()
        for path in files:
            if path.is_file():
                yield path, path.read_bytes()

    def drop(self) -> None:
        """Remove what was made."""
        if self.server is not None:
            for name in self.made:
                self.server.drop(name)
            if self.shared:
                self.server.recycle(self.shared)


# -- what the tests' servers keep their data in ---------------------------------------------------------------

_for_servers: list[Backend] = []


def server_database() -> str | None:
    """The URL of a new database for a server, where ``PILOT_TEST_DATABASE`` wants one outside of its directory."""
    return _for_servers[0].create() if _for_servers else None


def drop_database(url: str) -> None:
    """A server with a database from :func:`server_database` is gone for good."""
    if _for_servers and (server := _for_servers[0].server):
        server.drop(Database(url).url.database or "")


@pytest.fixture(scope="session", autouse=True)
def database_of_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Where ``PILOT_TEST_DATABASE`` says so, every server of the tests gets a database in our PostgreSQL."""
    if CHOSEN == "postgresql":
        template = request.getfixturevalue("migrated_postgres")
        server = request.getfixturevalue("postgres")
        _for_servers.append(Backend("postgresql", tmp_path_factory.getbasetemp(), template, server))
    yield
    _for_servers.clear()


# -- fixtures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this test process. A socket's path is short, so it is not in pytest's directory."""
    if not binaries().joinpath("postgres").exists():
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
