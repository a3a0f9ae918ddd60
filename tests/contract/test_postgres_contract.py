"""What only PostgreSQL can do to us: connections that end, servers that stand still in the middle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from pilothouse.engine.model import Status
from pilothouse.storage import Database, StorageBusy, StorageUnavailable, Tx
from pilothouse.storage import database as database_module
from pilothouse.storage import postgres as postgres_module
from support.journals import appending, held_up, numbers, raising, stored, writing
from support.kernel import Clock, Kernel
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
async def test_a_connection_lost_among_use_cases_is_told_to_all_of_them(
    postgres: Postgres, name: str, noticed_by: str
) -> None:
    """Nothing of the group is stored, everyone hears that it may try again, and the next group is written."""
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


async def test_what_is_kept_of_a_run_counts_until_another_server_writes(
    postgres: Postgres, name: str
) -> None:
    """One server has a run in memory, the other cancels it: the first hands out nothing of it any more."""
    ours, theirs, clock = Database(postgres.url(name)), Database(postgres.url(name)), Clock()
    first, second = Kernel(ours, clock), Kernel(theirs, clock)
    await first.start()
    await second.start()
    run_id = await first.run("jobs: [{name: j, steps: [{name: s, uses: dummy}]}]")
    assert run_id in first.runs._kept
    await second.cancel(run_id)
    assert (await first.write(lambda tx: first.runs.get(tx, run_id))).status is Status.CANCELLED
    first.check_memory()
    for kernel, database in ((first, ours), (second, theirs)):
        await kernel.stop()
        database.close()


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
    """It has begun a transaction and says nothing more; PostgreSQL undoes it, and it hears so when it wakes."""
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


def test_a_server_that_is_not_there_is_told_so(tmp_path: Path) -> None:
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
