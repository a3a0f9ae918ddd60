"""What only PostgreSQL can do to us: connections that end, servers that stand still in the middle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from pilothouse.access.model import SYSTEM
from pilothouse.engine import store as engine_store
from pilothouse.engine.model import Run, Status
from pilothouse.fleet.model import TaskStatus
from pilothouse.storage import Database, StorageBusy, StorageUnavailable, Tx
from pilothouse.storage import database as database_module
from pilothouse.storage import postgres as postgres_module
from support.journals import appending, held_up, numbers, raising, stored, writing
from support.kernel import LEASE, Clock, Kernel
from support.postgres import Postgres
from support.waiting import PATIENCE

pytestmark = pytest.mark.postgres


@pytest.fixture
def name(postgres: Postgres, migrated_postgres: str) -> Iterator[str]:
    """A migrated database of its own."""
    name = postgres.create(migrated_postgres)
    yield name
    postgres.drop(name)


@pytest.mark.parametrize("noticed_by", ["use case", "writer"])
async def test_a_connection_lost_within_a_group_fails_all_use_cases(
    postgres: Postgres, name: str, noticed_by: str
) -> None:
    """Nothing of the group is stored, all callers get a retryable error, and the next group is written."""
    database = Database(postgres.url(name))
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1))

        def hang_up(tx: Tx) -> None:
            postgres.hang_up(name)
            if noticed_by == "use case":
                tx.conn.execute(text("SELECT 1"))

        def own_fault(tx: Tx) -> None:
            raise LookupError("its own")

        async with held_up(writer):
            use_cases = [appending(journal, 2), own_fault, hang_up, appending(journal, 3), own_fault]
            calls = asyncio.gather(*map(writer.write, use_cases), return_exceptions=True)
        results = await calls
        assert isinstance(results[1], LookupError)
        for told in (results[0], results[2], results[3]):
            assert isinstance(told, StorageUnavailable), repr(told)
            assert "SQL" not in str(told)
        await writer.write(appending(journal, 4))
        assert numbers(stored(database)) == [1, 4]
        assert [entry.offset for entry in stored(database)] == [1, 2]
    database.close()


async def test_a_server_hears_that_another_has_written(postgres: Postgres, name: str) -> None:
    """Before its next use case, once for each time; a turn that came to nothing is no turn."""
    ours, theirs = Database(postgres.url(name)), Database(postgres.url(name))
    async with writing(ours) as (one, _), writing(theirs) as (two, their_journal):
        heard: list[str] = []
        one.on_takeover(lambda: heard.append("taken over"))

        def use_case(tx: Tx) -> None:
            heard.append("use case")

        await one.write(use_case)
        heard.clear()
        await one.write(use_case)
        assert heard == ["use case"]
        await two.write(appending(their_journal, 1))
        await two.write(appending(their_journal, 2))
        await one.write(use_case)
        await one.write(use_case)
        assert heard == ["use case", "taken over", "use case", "use case"]
        with pytest.raises(LookupError):
            await one.write(raising(LookupError("in vain")))
        await two.write(appending(their_journal, 3))
        with pytest.raises(StorageUnavailable):
            await one.write(lambda tx: postgres.hang_up(name))
        await one.write(use_case)
        assert heard[-3:] == ["taken over", "taken over", "use case"]
    ours.close()
    theirs.close()


@pytest.fixture
async def servers(postgres: Postgres, name: str) -> AsyncIterator[tuple[Kernel, Kernel]]:
    """Two servers on one database."""
    clock = Clock()
    first, second = (Kernel(Database(postgres.url(name)), clock) for _ in range(2))
    await first.start()
    await second.start()
    yield first, second
    for kernel in (first, second):
        await kernel.stop()
        kernel.database.close()


async def test_what_is_kept_of_a_run_counts_until_another_server_changes_it(
    servers: tuple[Kernel, Kernel],
) -> None:
    """One server has a run in memory, the other cancels it: the first hands out nothing of it any more."""
    first, second = servers
    run_id = await first.run("jobs: [{name: j, steps: [{name: s, uses: dummy}]}]")
    assert run_id in first.runs._kept
    await second.cancel(run_id)
    assert (await first.write(lambda tx: first.runs.get(tx, run_id))).status is Status.CANCELLED
    first.check_memory()


async def test_what_is_kept_of_a_run_outlives_the_writes_of_another_server_to_others(
    servers: tuple[Kernel, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers
    spec = "jobs: [{name: j, steps: [{name: s, uses: dummy}]}]"
    mine, other = await first.run(spec), await first.run(spec)
    kept = dict(first.runs._kept)
    await second.cancel(other)
    loaded: list[str] = []
    real = engine_store.load_run

    def counting(conn: Connection, run_id: str) -> Run | None:
        loaded.append(run_id)
        return real(conn, run_id)

    monkeypatch.setattr(engine_store, "load_run", counting)
    assert await first.write(lambda tx: first.runs.get(tx, mine)) is kept[mine]
    assert loaded == []
    assert await first.write(lambda tx: first.runs.get(tx, other)) is not kept[other]
    assert loaded == [other]


async def test_a_version_names_one_state_of_a_run(servers: tuple[Kernel, Kernel]) -> None:
    """Whatever changes a run, at either server, and whatever of it is undone: no other state has this version."""
    versions: dict[tuple[str, int], Run] = {}

    async def check() -> None:
        for kernel in servers:
            for run_id, kept in kernel.runs._kept.items():
                stored = kernel.load(run_id)
                assert stored.version != kept.version or stored == kept
                assert versions.setdefault((run_id, stored.version), stored) == stored

    first, second = servers
    spec = (
        "jobs: [{name: j, timeout: 5m, steps: [{name: a, uses: dummy, retry: {maxAttempts: 2, delay: 1s}}, \
{name: b, uses: dummy, onLost: rerun}, {name: c, uses: dummy}]}]"
    )
    agent = await first.agent("a1")
    run_id = await second.run(spec)
    await check()
    await first.write(first.dispatcher.dispatch)
    tries = ((first, TaskStatus.FAILED), (second, TaskStatus.SUCCEEDED))
    for seq, (kernel, status) in enumerate(tries, start=1):
        await first.tick(2)
        await check()
        await kernel.ack(agent)
        await check()
        await second.tell("a1", seq, agent.last.id, "step.output", {"name": "o", "value": seq})
        await check()
        await kernel.report(agent, status)
        await check()
    await first.write(first.dispatcher.dispatch)
    with pytest.raises(LookupError):
        await second.write(lambda tx: undone(second, tx, run_id))
    await check()
    assert agent.last.name == "b"
    await first.ack(agent)
    await check()
    await first.tick(2 * LEASE)
    await check()
    assert second.step(run_id, "b")["attempts"][0]["error"].startswith("lost: ")
    await second.cancel(run_id)
    await check()
    assert len(versions) >= 10
    assert first.load(run_id).status is Status.CANCELLED


def undone(kernel: Kernel, tx: Tx, run_id: str) -> None:
    """A use case that fails after it has changed a run."""
    kernel.engine.cancel(tx, SYSTEM, run_id, "in vain")
    raise LookupError("its own")


@pytest.mark.parametrize("default", ["repeatable read", "serializable"])
async def test_writers_see_each_other_whatever_the_database_has_as_its_default(
    postgres: Postgres, name: str, default: str
) -> None:
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'")
    ours, theirs = Database(postgres.url(name)), Database(postgres.url(name))
    async with writing(ours) as (one, journal), writing(theirs) as (two, their_journal):
        for number in range(20):
            await asyncio.gather(
                one.write(appending(journal, number)), two.write(appending(their_journal, number))
            )
    assert sorted(numbers(stored(ours))) == sorted([*range(20), *range(20)])
    assert [entry.offset for entry in stored(ours)] == list(range(1, 41))
    ours.close()
    theirs.close()


async def test_connections_that_ended_while_nobody_used_them_are_not_noticed(
    postgres: Postgres, name: str
) -> None:
    database = Database(postgres.url(name))
    async with writing(database) as (writer, journal):
        for number in range(3):
            await writer.write(appending(journal, number))
            assert numbers(stored(database)) == list(range(number + 1))
            assert postgres.hang_up(name) >= 2
    database.close()


async def test_a_server_that_stands_still_holds_up_no_other(
    postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is suspended within a transaction; PostgreSQL rolls it back, and the process gets an error when it resumes."""
    monkeypatch.setattr(postgres_module, "STANDS_STILL_AFTER", 1)
    still, other = Database(postgres.url(name)), Database(postgres.url(name))
    begun, go_on = threading.Event(), threading.Event()
    async with writing(still) as (one, its_journal), writing(other) as (two, journal):

        def stand_still(tx: Tx) -> None:
            appending(its_journal, 1)(tx)
            begun.set()
            go_on.wait(PATIENCE)

        sleeping = asyncio.create_task(one.write(stand_still))
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        try:
            async with asyncio.timeout(PATIENCE):
                await two.write(appending(journal, 2))
        finally:
            go_on.set()
        with pytest.raises(StorageUnavailable):
            await sleeping
        await one.write(appending(its_journal, 3))
        assert numbers(stored(other)) == [2, 3]
    still.close()
    other.close()


async def test_who_waits_too_long_for_its_turn_is_told_so(
    postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "WAITS_AT_MOST", 1)
    busy, other = Database(postgres.url(name)), Database(postgres.url(name))
    async with writing(other) as (two, journal):
        with busy.write_engine.begin() as conn:
            conn.execute(text("SELECT 1"))
            with pytest.raises(StorageUnavailable):
                await two.write(appending(journal, 1))
        await two.write(appending(journal, 2))
        assert numbers(stored(other)) == [2]
    busy.close()
    other.close()


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    """Whether one reads or writes; with the reason for the operator, but not for everyone."""
    database = Database(f"postgresql://pilot@/none?host={tmp_path}")
    for use in (database.read, database.write_engine.begin):
        with pytest.raises(StorageUnavailable) as refused, use():
            pass
        assert str(tmp_path) in refused.value.reason
        assert str(tmp_path) not in str(refused.value)
    database.close()


def test_who_gets_no_connection_to_read_is_told_so(
    postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "READ_CONNECTIONS", 1)
    database = Database(postgres.url(name))
    monkeypatch.setattr(database.read_engine.pool, "_timeout", 0.1)
    with database.read(), pytest.raises(StorageBusy), database.read():
        pass
    with database.read() as conn:
        assert conn.execute(text("SELECT 1")).scalar_one() == 1
    database.close()
