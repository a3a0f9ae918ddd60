"""Storage on both databases: group commit, what a failure undoes, and the order of commits."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from pilothouse.blobs import store as blob_store
from pilothouse.journal import Entry, Journal, Selection
from pilothouse.journal import store as journal_store
from pilothouse.server.events import CloudEvents
from pilothouse.storage import Database, StorageClosed, Tx, Writer
from pilothouse.storage.writer import GROUP_SECONDS
from support.databases import reopened
from support.journals import (
    STREAM,
    appending,
    blob,
    follow,
    held_up,
    numbers,
    raising,
    read_messages,
    stored,
    writing,
)
from support.waiting import PATIENCE


async def test_a_failing_use_case_does_not_affect_its_group(database: Database) -> None:
    async with writing(database) as (writer, journal):

        def fails(tx: Tx, id: str) -> None:
            tx.conn.execute(insert(blob_store.blobs).values(**blob(id)))
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": -1})
            tx.after_commit(lambda: effects.append("of a failure"))
            raise LookupError(id)

        def works(tx: Tx, number: int) -> int:
            tx.conn.execute(insert(blob_store.blobs).values(**blob(f"good-{number}")))
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": number})
            tx.after_commit(lambda: effects.append(number))
            return number

        effects: list[Any] = []
        async with held_up(writer):
            calls = [
                writer.write(lambda tx, n=n: fails(tx, f"bad-{n}") if n % 3 == 0 else works(tx, n))
                for n in range(30)
            ]
            together = asyncio.gather(*calls, return_exceptions=True)
        results = await together
        good = [n for n in range(30) if n % 3]
        assert [r for r in results if not isinstance(r, BaseException)] == good
        assert [r.args for r in results if isinstance(r, LookupError)] == [
            (f"bad-{n}",) for n in range(0, 30, 3)
        ]
        assert numbers(stored(database)) == good == effects
        with database.read() as conn:
            kept = set(conn.execute(select(blob_store.blobs.c.id)).scalars())
        assert kept == {f"good-{n}" for n in good}


async def test_a_database_error_does_not_affect_the_group(database: Database) -> None:
    async with writing(database) as (writer, journal):

        def doubles(tx: Tx) -> None:
            tx.conn.execute(insert(blob_store.blobs).values(**blob("same")))

        results = await asyncio.gather(
            *(writer.write(doubles) for _ in range(5)),
            writer.write(appending(journal, 7)),
            return_exceptions=True,
        )
        assert [type(r) for r in results] == [type(None), *[IntegrityError] * 4, type(None)]
        assert numbers(stored(database)) == [7]


async def test_no_error_whatever_leaves_a_neighbour_waiting(database: Database) -> None:
    """A bare ``next()`` raises what no future takes as its exception; the others of the group are still answered."""
    async with writing(database) as (writer, journal):
        calls = [
            writer.write(lambda tx: next(iter(()))),
            *(writer.write(appending(journal, n)) for n in range(5)),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        _, waiting = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in waiting:
            task.cancel()
        assert not waiting, f"{len(waiting)} callers were never answered"
        assert tasks[0].exception() is not None
        assert [task.exception() for task in tasks[1:]] == [None] * 5


async def test_what_takes_long_does_not_hold_up_the_answers_before_it(database: Database) -> None:
    """A group ends early after long use cases; all are run, in their order, and before the writer stops."""
    committed: list[int] = []
    go_on = threading.Event()

    def use_case(tx: Tx, number: int) -> None:
        if number == 2:
            time.sleep(2 * GROUP_SECONDS)
        if number == 5:
            go_on.wait(PATIENCE)
        tx.after_commit(lambda: committed.append(number))

    async with writing(database) as (writer, _):
        async with held_up(writer):
            calls = [asyncio.ensure_future(writer.write(partial(use_case, number=n))) for n in range(8)]
        await calls[2]
        assert committed == [0, 1, 2]
        go_on.set()
        await asyncio.gather(*calls[:4])
        await writer.stop()
        assert committed == list(range(8))
        await asyncio.gather(*calls)


async def test_no_text_is_refused_for_its_nul(database: Database) -> None:
    """PostgreSQL's texts have no NUL; input that does must neither break a connection nor find anything."""

    def look(tx: Tx, id: str) -> bool:
        return tx.conn.execute(select(blobs.c.id).where(blobs.c.id == id)).first() is not None

    blobs = blob_store.blobs
    async with writing(database) as (writer, _):
        assert not await writer.write(lambda tx: look(tx, "a\0b"))
        await writer.write(lambda tx: tx.conn.execute(insert(blobs).values(**blob("ab"))))
        await writer.write(lambda tx: tx.conn.execute(insert(blobs).values(**blob("a\0b"))))
        assert await writer.write(lambda tx: look(tx, "a\0b"))
    with database.read() as conn:
        kept = {id.replace("\ufffd", "\0") for id in conn.execute(select(blobs.c.id)).scalars()}
    assert kept == {"ab", "a\0b"}


async def test_errors_do_not_repeat_what_was_to_be_stored(database: Database) -> None:
    async with writing(database) as (writer, _):
        for _ in range(2):
            row = insert(blob_store.blobs).values(**{**blob("same"), "created_by": "s3cret"})
            [failed] = await asyncio.gather(
                writer.write(lambda tx, row=row: tx.conn.execute(row)), return_exceptions=True
            )
        assert isinstance(failed, IntegrityError)
        assert "s3cret" not in str(failed)


async def test_nothing_is_published_before_it_is_committed(database: Database) -> None:
    async with writing(database) as (writer, journal):
        seen: list[int] = []

        def count_committed() -> None:
            seen.append(len(stored(database)))

        def use_case(tx: Tx) -> str:
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": 1})
            tx.after_commit(count_committed)
            return "done"

        subscription = await follow(journal, Selection(STREAM))
        assert await writer.write(use_case) == "done"
        assert seen == [1], "an effect sees what was committed"
        assert len(await subscription.next()) == 1


async def test_a_commit_that_fails_fails_everyone_and_stores_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with writing(database) as (writer, journal):
        effects: list[int] = []

        def use_case(tx: Tx, number: int) -> None:
            appending(journal, number)(tx)
            tx.after_commit(lambda: effects.append(number))

        def own_fault(tx: Tx) -> None:
            raise LookupError("its own")

        with monkeypatch.context() as broken:
            broken.setattr(journal_store, "append", raising(OSError("no space left")))
            calls = [writer.write(lambda tx, n=n: use_case(tx, n)) for n in range(4)]
            results = await asyncio.gather(*calls, writer.write(own_fault), return_exceptions=True)
        assert [type(r) for r in results] == [OSError] * 4 + [LookupError]
        assert effects == []
        assert stored(database) == []
        await writer.write(appending(journal, 9))
        assert [(e.offset, e.body["n"]) for e in stored(database)] == [(1, 9)], "no offset was lost"


async def test_a_lost_commit_is_a_failure_for_everyone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with writing(database) as (writer, journal):
        with monkeypatch.context() as broken:
            broken.setattr(database.write_engine.dialect, "do_commit", raising(OSError("the disk is gone")))
            results = await asyncio.gather(
                *(writer.write(appending(journal, n)) for n in range(3)), return_exceptions=True
            )
        assert all(isinstance(r, OSError) for r in results), results
        await writer.write(appending(journal, 9))
        assert numbers(stored(database)) == [9]


async def test_callers_are_answered_though_telling_the_world_fails(database: Database) -> None:
    """After the commit callers are notified even if a reader's format fails for an entry."""

    class Choking(CloudEvents):
        def encode(self, entry: Entry) -> Any:
            raise KeyError("node")

    class Hook(Journal):
        def publish(self, prepared: list[Entry]) -> None:
            super().publish(prepared)
            Choking(self.epoch).encode(prepared[0])

    writer, journal = Writer(database), Hook(database)
    writer.start(journal)
    try:
        async with asyncio.timeout(PATIENCE):
            await writer.write(appending(journal, 1))
    finally:
        await writer.stop()
    assert numbers(stored(database)) == [1]


async def test_a_failing_effect_does_not_affect_others(database: Database) -> None:
    async with writing(database) as (writer, _journal):
        effects: list[int] = []

        def use_case(tx: Tx) -> int:
            tx.after_commit(raising(LookupError("in an effect")))
            tx.after_commit(lambda: effects.append(1))
            return 5

        assert await writer.write(use_case) == 5
        assert effects == [1]


async def test_what_was_done_outside_of_the_database_is_undone_with_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with writing(database) as (writer, journal):
        undone: list[int] = []

        def use_case(tx: Tx, number: int) -> None:
            tx.on_rollback(lambda: undone.append(number))
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": number})
            if number == 2:
                raise LookupError

        calls = [writer.write(lambda tx, n=n: use_case(tx, n)) for n in range(4)]
        await asyncio.gather(*calls, return_exceptions=True)
        assert undone == [2]
        with monkeypatch.context() as broken:
            broken.setattr(journal_store, "append", raising(OSError("no space left")))
            calls = [writer.write(lambda tx, n=n: use_case(tx, n)) for n in range(10, 13)]
            await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(undone[1:]) == [10, 11, 12]


async def test_a_transaction_that_the_database_gave_up_is_undone_for_everyone(database: Database) -> None:
    """A full disk rolls back the whole transaction with its savepoints, and all callers get the error."""
    async with writing(database) as (writer, journal):
        undone: list[str] = []

        def works(tx: Tx) -> None:
            tx.on_rollback(lambda: undone.append("neighbour"))
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": 1})

        def full(tx: Tx) -> None:
            tx.on_rollback(lambda: undone.append("own"))
            tx.conn.exec_driver_sql("ROLLBACK")
            raise OSError("database or disk is full")

        async with held_up(writer):
            calls = asyncio.gather(writer.write(works), writer.write(full), return_exceptions=True)
        assert [isinstance(r, Exception) for r in await calls] == [True, True]
        assert sorted(undone) == ["neighbour", "own"]
        assert stored(database) == []
        await writer.write(appending(journal, 2))
        assert numbers(stored(database)) == [2]


async def test_cancelling_the_caller_does_not_undo_the_work(database: Database) -> None:
    async with writing(database) as (writer, journal):
        async with held_up(writer):
            second = asyncio.create_task(writer.write(appending(journal, 1)))
            await asyncio.sleep(0)
            second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await writer.write(appending(journal, 2))
        assert numbers(stored(database)) == [1, 2]


async def test_stopping_finishes_what_is_queued_and_then_refuses(database: Database) -> None:
    writer, journal = Writer(database), Journal(database)
    with pytest.raises(StorageClosed):
        await writer.write(appending(journal, 0))
    writer.start(journal)
    calls = [asyncio.ensure_future(writer.write(appending(journal, n))) for n in range(600)]
    await asyncio.sleep(0)
    await writer.stop()
    await asyncio.gather(*calls)
    assert numbers(stored(database)) == list(range(600))
    assert writer.queued == 0
    with pytest.raises(StorageClosed):
        await writer.write(appending(journal, 0))
    await writer.stop()


# -- order ------------------------------------------------------------------------------------------------


async def test_use_cases_run_in_the_order_they_were_handed_in(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await asyncio.gather(*(writer.write(appending(journal, n)) for n in range(700)))
        found = stored(database)
        assert numbers(found) == list(range(700))
        assert [entry.offset for entry in found] == list(range(1, 701)), "from one on, and dense"


async def test_a_use_case_may_rely_on_what_it_has_read(database: Database) -> None:
    """Two servers, one row: what one has read, no other changes before it has written."""
    size = blob_store.blobs.c.size

    def add_one(tx: Tx) -> None:
        read = tx.conn.execute(select(size)).scalar_one()
        tx.conn.execute(update(blob_store.blobs).values(size=read + 1))

    other = reopened(database)
    try:
        async with writing(database) as (one, _), writing(other) as (two, _):
            await one.write(lambda tx: tx.conn.execute(insert(blob_store.blobs).values(**blob("counted"))))
            for _ in range(30):
                await asyncio.gather(*(writer.write(add_one) for writer in (one, two, one, two)))
        with database.read() as conn:
            assert conn.execute(select(size)).scalar_one() == 1 + 30 * 4
    finally:
        other.close()


async def test_offsets_are_commit_order_with_two_writers(database: Database) -> None:
    """A reader of the table never sees an offset before all smaller ones are visible."""
    other = reopened(database)
    try:
        async with writing(database) as (one, journal), writing(other) as (two, journal_two):
            seen: list[list[int]] = []

            def look() -> None:
                with database.read() as conn:
                    seen.append(list(conn.execute(select(journal_store.entries.c.offset)).scalars()))

            async def burst(writer: Writer, its_journal: Journal, base: int) -> None:
                for start in range(0, 150, 10):
                    calls = (writer.write(appending(its_journal, base + start + n)) for n in range(10))
                    await asyncio.gather(*calls, asyncio.to_thread(look))

            await asyncio.gather(burst(one, journal, 0), burst(two, journal_two, 1000))
        for snapshot in seen:
            assert sorted(snapshot) == list(range(1, len(snapshot) + 1)), "a hole that is filled later"
        found = stored(database)
        assert [entry.offset for entry in found] == list(range(1, 301))
        for base in (0, 1000):
            mine = [n for n in numbers(found) if base <= n < base + 1000]
            assert sorted(mine) == list(range(base, base + 150))
            assert [n // 10 for n in mine] == sorted(n // 10 for n in mine)
    finally:
        other.close()


async def test_a_reader_misses_nothing_that_another_server_wrote(database: Database) -> None:
    """Two servers on one database: entries of the other are read from the table."""
    other = reopened(database)
    try:
        async with writing(database) as (one, journal), writing(other) as (two, journal_two):
            reader = await follow(journal, Selection(STREAM))
            await one.write(appending(journal, 1))
            await read_messages(reader, 1)
            await two.write(appending(journal_two, 2, 3))
            await one.write(appending(journal, 4))
            await read_messages(reader, 3)
    finally:
        other.close()


async def test_a_read_is_one_snapshot(database: Database) -> None:
    """A run is loaded with several statements: they must not see different moments (Database.read)."""
    async with writing(database) as (writer, journal):
        with database.read() as conn:
            assert journal_store.count(conn) == 0
            await writer.write(appending(journal, 1))
            assert journal_store.count(conn) == 0
        with database.read() as conn:
            assert journal_store.count(conn) == 1
