"""Several server processes on one PostgreSQL: they start together, and write into one journal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing

import pytest

from pilothouse.journal import store as journal_store
from pilothouse.storage import Database, migrations
from support.live_run import begin, numbered
from support.postgres import Postgres
from support.server import Server, spec_for
from support.waiting import PATIENCE, eventually
from support.watchers import END, Event, RunSse, RunWs, follow, sse, sse_events

pytestmark = pytest.mark.postgres
SERVERS = 3
RUNS = 25
"""Triggered on each server."""


@pytest.fixture(scope="module")
def empty(postgres: Postgres) -> Iterator[str]:
    """The URL of a database without a single table."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, empty: str) -> Iterator[list[Server]]:
    """Started in the same moment: with a data directory each, the same key in all, and one database."""
    with ExitStack() as stack:
        made = []
        for number in range(SERVERS):
            server = Server(tmp_path_factory.mktemp(f"server-{number}"), database_url=empty)
            server.data_dir.mkdir()
            (server.data_dir / "server.key").write_bytes(bytes(32))
            stack.callback(server.close)
            made.append(server)
        with ThreadPoolExecutor(SERVERS) as pool:
            list(pool.map(Server.start, made))
        yield made
        for server in made:
            assert server.failures() == []


def test_servers_that_start_together_on_an_empty_database(servers: list[Server], empty: str) -> None:
    database = Database(empty)
    with database.read() as conn:
        versions = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
        assert versions == [migrations.head()]
        assert conn.exec_driver_sql("SELECT count(*) FROM journal_head").scalar_one() == 1
        assert conn.exec_driver_sql("SELECT username FROM users").scalars().all() == ["admin"]
        assert conn.exec_driver_sql("SELECT count(*) FROM projects").scalar_one() == 1
    database.close()
    for server in servers:
        assert server.call("GET", "/auth/me", servers[0].admin).status_code == 200


async def test_a_setting_that_one_changes_holds_on_all(servers: list[Server]) -> None:
    first, *others = servers
    most = first.ask("GET", "/tenants", first.admin)["total"]
    first.ask("PATCH", "/settings", json={"settings": {"quota_tenants": most + 1}})
    first.ask("POST", "/tenants", json={"name": "the last one"})

    def full(server: Server) -> bool:
        answer = server.call("POST", "/tenants", first.admin, json={"name": "too many"})
        if answer.status_code == 201:  # it has not heard of the change yet
            server.ask("DELETE", f"/tenants/{answer.json()['detail']['tenantId']}", first.admin)
        return answer.status_code == 409 and answer.json()["errorCode"] == "QUOTA_EXCEEDED"

    for server in others:
        await eventually(lambda server=server: full(server))  # type: ignore[misc]
    first.ask("PATCH", "/settings", json={"settings": {"quota_tenants": None}})


class Wanderer:
    """Follows the whole journal, now here and now there, each time from where it was."""

    def __init__(self, servers: list[Server], *, settled: bool) -> None:
        self.offsets: list[int] = []
        self._servers, self._settled = servers, settled
        self._cursor = "start"

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            server = random.choice(self._servers)
            url = f"{server.url}/api/v1/events?cursor={self._cursor}"
            async with sse(url, self._servers[0].admin) as response:
                assert response.status_code == 200, await response.aread()
                async with aclosing(sse_events(response.aiter_raw())) as events:
                    await self._take(events)

    async def _take(self, events: AsyncIterator[Event]) -> None:
        patience = None if self._settled else random.randint(1, 40)
        async for event in events:
            self._cursor = event.id
            self.offsets.append(int(event.id.split(".")[1]) - 1)
            if len(self.offsets) == patience:
                return


async def test_any_server_serves_any_reader_while_all_write(servers: list[Server], empty: str) -> None:
    pipelines = [server.pipeline(f"on-{at}", spec_for("nobody")) for at, server in enumerate(servers)]
    readers = [Wanderer([server], settled=True) for server in servers]
    readers += [Wanderer(servers, settled=False) for _ in range(3)]
    following = [asyncio.create_task(reader.follow()) for reader in readers]

    def write(server: Server, pipeline: str) -> None:
        for _ in range(RUNS):
            server.trigger(pipeline)

    await asyncio.gather(*(asyncio.to_thread(write, *pair) for pair in zip(servers, pipelines, strict=True)))
    database = Database(empty)
    with database.read() as conn:
        last = journal_store.next_offset(conn) - 1
        there, _ = journal_store.page(conn, None, 0, rows=100_000, size=1 << 40)
    database.close()
    assert [entry.offset for entry in there] == list(range(1, last + 1))
    assert last > SERVERS * RUNS * 3

    def all_there() -> bool:
        for task in following:
            if task.done():
                task.result()
        return all(reader.offsets and reader.offsets[-1] >= last for reader in readers)

    try:
        await eventually(all_there)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    for reader in readers:
        assert reader.offsets == list(range(1, len(reader.offsets) + 1))


async def test_a_run_is_watched_on_servers_that_have_no_part_in_it(servers: list[Server]) -> None:
    """The agent and the run are on one server; the others write nothing and get no notification."""
    first, *others = servers
    live = await begin(first)
    watching = []
    for server in others:
        for surface in (RunSse, RunWs):
            watching.append(asyncio.create_task(follow(surface(server, first.admin, live.run_id))))
    for start in range(0, 50, 10):
        await live.say(*numbered(start, start + 10))
    await live.end()
    for watch in watching:
        got = await asyncio.wait_for(watch, PATIENCE)
        assert [line for one in got for line in one.lines] == [*numbered(0, 50), END]
    await live.agent.vanish()
