"""Several server processes on one PostgreSQL: they start together, and write into one journal."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pilothouse.storage import Database, migrations
from support.postgres import Postgres
from support.server import Server

pytestmark = pytest.mark.postgres
SERVERS = 4


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[str]:
    """The URL of a database without a single table."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


def together(tmp_path: Path, url: str) -> list[Server]:
    """Servers not yet started, with a data directory each, the same key in all, and one database."""
    servers = []
    for number in range(SERVERS):
        server = Server(tmp_path / str(number), database_url=url)
        server.data_dir.mkdir(parents=True)
        (server.data_dir / "server.key").write_bytes(bytes(32))
        servers.append(server)
    return servers


def test_servers_that_start_together_on_an_empty_database(tmp_path: Path, empty: str) -> None:
    servers = together(tmp_path, empty)
    try:
        with ThreadPoolExecutor(SERVERS) as pool:
            list(pool.map(Server.start, servers))
        database = Database(empty)
        with database.read() as conn:
            assert conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == [
                migrations.head()
            ]
            assert conn.exec_driver_sql("SELECT count(*) FROM journal_head").scalar_one() == 1
            assert conn.exec_driver_sql("SELECT username FROM users").scalars().all() == ["admin"]
            assert conn.exec_driver_sql("SELECT count(*) FROM projects").scalar_one() == 1
        database.close()
        token = servers[0].admin
        for server in servers:
            assert server.call("GET", "/auth/me", token).status_code == 200
            assert server.failures() == []
    finally:
        for server in servers:
            server.close()
