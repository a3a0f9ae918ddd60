"""Storage and journal on both databases: group commit, commit order, cursors, retention, migrations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from support.databases import Backend, reopened

import pilothouse.server.graph  # noqa: F401  every package's tables
from pilothouse.engine import store as engine_store
from pilothouse.fleet import store as fleet_store
from pilothouse.journal import Cursor, CursorExpired, CursorInvalid, Entry, Journal, Selection, Subscription
from pilothouse.journal import feed as feed_module
from pilothouse.journal import store as journal_store
from pilothouse.server.events import CloudEvents
from pilothouse.storage import Database, StorageClosed, StorageTooNew, Tx, Writer, metadata, migrations
from pilothouse.storage.migrations import upgrade

STREAM = "run/one"


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[tuple[Writer, Journal]]:
    """A started writer with its journal."""
    writer, journal = Writer(database), Journal(database)
    writer.start(journal)
    try:
        yield writer, journal
    finally:
        await writer.stop()
        journal.feed.close()


def appending(journal: Journal, *numbers: int, stream: str = STREAM, type: str = "step.noted") -> Callable[[Tx], None]:
    """A use case that writes entries."""

    def use_case(tx: Tx) -> None:
        for number in numbers:
            journal.append(tx, stream, type, "project/p", {"n": number})

    return use_case


def blob(id: str) -> dict[str, Any]:
    """A row of some table."""
    return {"id": id, "project": "p", "sha256": "", "size": 1, "created_by": "", "created_at": 1}


def stored(database: Database) -> list[Entry]:
    with database.read() as conn:
        return journal_store.page(conn, None, 0, rows=100_000, size=1 << 40)[0]


def numbers(found: list[Entry]) -> list[int]:
    return [entry.body["n"] for entry in found]


async def follow(journal: Journal, selection: Selection, cursor: str = "start") -> Subscription:
    reader = await journal.feed.reader(selection, CloudEvents(journal.epoch), lambda scope: True, cursor)
    return journal.feed.follow(reader)


async def read(subscription: Subscription, count: int) -> list[bytes]:
    """What a reader gets: so many messages, and none behind them."""
    got: list[bytes] = []
    async with asyncio.timeout(3):
        while len(got) < count:
            got += await subscription.next()
    assert len(got) == count
    assert await subscription.past() == []
    return got


# -- group commit -----------------------------------------------------------------------------------------


async def test_a_use_case_that_fails_harms_no_neighbour(database: Database) -> None:
    async with writing(database) as (writer, journal):

        def fails(tx: Tx, id: str) -> None:
            tx.conn.execute(insert(engine_store.blobs).values(**blob(id)))
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": -1})
            tx.after_commit(lambda: effects.append("of a failure"))
            raise LookupError(id)

        def works(tx: Tx, number: int) -> int:
            tx.conn.execute(insert(engine_store.blobs).values(**blob(f"good-{number}")))
            journal.append(tx, STREAM, "step.noted", "project/p", {"n": number})
            tx.after_commit(lambda: effects.append(number))
            return number

        effects: list[Any] = []
        hold = threading.Event()
        first = asyncio.create_task(writer.write(lambda tx: hold.wait(10)))
        calls = [
            writer.write(lambda tx, n=n: fails(tx, f"bad-{n}") if n % 3 == 0 else works(tx, n)) for n in range(30)
        ]
        together = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)
        hold.set()  # all thirty have queued up meanwhile: one group
        results = await together
        await first
        good = [n for n in range(30) if n % 3]
        assert [r for r in results if not isinstance(r, BaseException)] == good
        assert [r.args for r in results if isinstance(r, LookupError)] == [(f"bad-{n}",) for n in range(0, 30, 3)]
        assert numbers(stored(database)) == good == effects
        with database.read() as conn:
            kept = set(conn.execute(select(engine_store.blobs.c.id)).scalars())
        assert kept == {f"good-{n}" for n in good}


async def test_an_error_of_the_database_harms_no_neighbour(database: Database) -> None:
    async with writing(database) as (writer, journal):

        def doubles(tx: Tx) -> None:
            tx.conn.execute(insert(engine_store.blobs).values(**blob("same")))

        results = await asyncio.gather(
            *(writer.write(doubles) for _ in range(5)), writer.write(appending(journal, 7)), return_exceptions=True
        )
        assert [type(r) for r in results] == [type(None), *[IntegrityError] * 4, type(None)]
        assert numbers(stored(database)) == [7]


async def test_no_error_whatever_leaves_a_neighbour_waiting(database: Database) -> None:
    """A bare ``next()`` raises what no future takes as its exception; the others of the group are still answered."""
    async with writing(database) as (writer, journal):
        calls = [writer.write(lambda tx: next(iter(()))), *(writer.write(appending(journal, n)) for n in range(5))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        _, waiting = await asyncio.wait(tasks, timeout=2)
        for task in waiting:
            task.cancel()
        assert not waiting, f"{len(waiting)} callers were never answered"
        assert tasks[0].exception() is not None
        assert [task.exception() for task in tasks[1:]] == [None] * 5


async def test_nothing_is_told_before_it_is_committed(database: Database) -> None:
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


async def test_a_lost_commit_is_a_failure_for_everyone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """It is committed: whoever waits must hear so, even if a reader's format chokes on an entry."""

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
        async with asyncio.timeout(3):
            await writer.write(appending(journal, 1))
    finally:
        await writer.stop()
    assert numbers(stored(database)) == [1]


async def test_an_effect_that_fails_harms_nobody(database: Database) -> None:
    async with writing(database) as (writer, _journal):
        effects: list[int] = []

        def use_case(tx: Tx) -> int:
            tx.after_commit(raising(LookupError("in an effect")))
            tx.after_commit(lambda: effects.append(1))
            return 5

        assert await writer.write(use_case) == 5
        assert effects == [1]


async def test_cancelling_the_caller_does_not_undo_the_work(database: Database) -> None:
    async with writing(database) as (writer, journal):
        hold = threading.Event()
        first = asyncio.create_task(writer.write(lambda tx: hold.wait(10)))
        second = asyncio.create_task(writer.write(appending(journal, 1)))
        await asyncio.sleep(0)
        second.cancel()
        hold.set()
        await first
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


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **more: Any) -> None:
        raise error

    return fail


# -- order ------------------------------------------------------------------------------------------------


async def test_use_cases_run_in_the_order_they_were_handed_in(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await asyncio.gather(*(writer.write(appending(journal, n)) for n in range(700)))
        found = stored(database)
        assert numbers(found) == list(range(700))
        assert [entry.offset for entry in found] == list(range(1, 701)), "from one on, and dense"


async def test_offsets_are_commit_order_with_two_writers(database: Database) -> None:
    """A reader of the table never sees an offset while a smaller one is still to come."""
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
    """Two servers on one database: what this one was never told of is on disk, and its readers are sent there."""
    other = reopened(database)
    try:
        async with writing(database) as (one, journal), writing(other) as (two, journal_two):
            reader = await follow(journal, Selection(STREAM))
            await one.write(appending(journal, 1))
            await read(reader, 1)
            await two.write(appending(journal_two, 2, 3))
            await one.write(appending(journal, 4))
            await read(reader, 3)
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


# -- cursors and readers ----------------------------------------------------------------------------------


async def test_epoch_and_cursors_survive_a_restart(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1, 2, 3))
        epoch, last = journal.epoch, (await read(await follow(journal, Selection(STREAM)), 3))[-1]
    cursor = last.split(b"\n")[0].removeprefix(b"id: ").decode()
    again = reopened(database)
    async with writing(again) as (writer, journal):
        assert journal.epoch == epoch
        resumed = await follow(journal, Selection(STREAM), cursor)
        await writer.write(appending(journal, 4))
        [got] = await read(resumed, 1)
        assert b'"n":4' in got
        await read(await follow(journal, Selection(STREAM)), 4)
    again.close()


async def test_two_databases_have_two_epochs(backend: Backend) -> None:
    epochs = set()
    for _ in range(2):
        database = Database(backend.create())
        epochs.add(Journal(database).epoch)
        database.close()
    assert len(epochs) == 2


async def test_forgetting_is_told_and_quiet_streams_keep_their_cursors(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1, 2, 3, stream="run/noisy"))
        await writer.write(appending(journal, 4, stream="run/quiet"))
        await writer.write(appending(journal, 5, stream="run/noisy"))
        assert await writer.write(lambda tx: journal.forget(tx, "run/noisy", 3)) == 2
        assert numbers(stored(database)) == [3, 4, 5]
        with pytest.raises(CursorExpired):
            await follow(journal, Selection("run/noisy"), Cursor(2).text(journal.epoch))
        with pytest.raises(CursorExpired):
            await follow(journal, Selection(None), Cursor(2).text(journal.epoch))
        for stream, cursor, expected in [
            ("run/noisy", Cursor(3), 2),
            ("run/quiet", Cursor(1), 1),
            (None, Cursor(3), 3),
        ]:
            reader = await follow(journal, Selection(stream), cursor.text(journal.epoch))
            await read(reader, expected)
        await writer.write(lambda tx: journal.forget(tx, "run/noisy", 2))
        with database.read() as conn:
            assert journal_store.retained_from(conn, "run/noisy") == 3, "a watermark never falls"
            assert journal_store.retained_from(conn, "run/quiet") == 0
    again = reopened(database)
    async with writing(again) as (_, journal):
        with pytest.raises(CursorExpired):
            await follow(journal, Selection("run/noisy"), Cursor(2).text(journal.epoch))
    again.close()


async def test_a_cursor_that_cannot_be_is_refused(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1))
        with pytest.raises(CursorExpired):
            await follow(journal, Selection(STREAM), "00000000.1.0" if journal.epoch != "0" * 8 else "11111111.1.0")
        with pytest.raises(CursorExpired):
            await follow(journal, Selection(STREAM), Cursor(3).text(journal.epoch))
        with pytest.raises(CursorInvalid):
            await follow(journal, Selection(STREAM), "1")
        at_the_head = await follow(journal, Selection(STREAM), Cursor(2).text(journal.epoch))
        await read(at_the_head, 0)


async def test_what_is_forgotten_under_a_slow_reader_is_told(database: Database) -> None:
    """Invariant 2: a cursor older than what is retained gets an explicit answer, never silence."""
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, *range(10)))
    again = reopened(database)
    async with writing(again) as (writer, journal):
        slow = await follow(journal, Selection(STREAM), Cursor(2).text(journal.epoch))
        await writer.write(lambda tx: journal.forget(tx, STREAM, 6))
        with pytest.raises(CursorExpired):
            await slow.next()
    again.close()


async def test_a_page_without_messages_is_not_the_end(database: Database) -> None:
    """A whole page of what the reader did not ask for, and behind it, in memory, what it did."""
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, *range(255), type="step.other"))
    again = reopened(database)
    async with writing(again) as (writer, journal):
        await writer.write(appending(journal, 255, type="step.other"))
        await writer.write(appending(journal, 256, type="step.wanted"))
        reader = await follow(journal, Selection(STREAM, type="step.wanted"))
        async with asyncio.timeout(3):
            assert len(await reader.next()) == 1
    again.close()


async def test_what_is_published_during_an_empty_load_is_not_missed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is woken while its loader is still reading: there is nobody to wake yet, but it must not sleep."""
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1, stream="run/other"))
    again = reopened(database)
    reading, go_on = threading.Event(), threading.Event()
    page = journal_store.page

    def slow_page(conn: Connection, *args: Any, **more: Any) -> Any:
        found = page(conn, *args, **more)
        reading.set()
        assert go_on.wait(10)
        return found

    async with writing(again) as (writer, journal):
        reader = await follow(journal, Selection(STREAM))
        monkeypatch.setattr(feed_module.store, "page", slow_page)
        waiting = asyncio.create_task(reader.next())
        assert await asyncio.to_thread(reading.wait, 10)
        await writer.write(appending(journal, 2))
        go_on.set()
        async with asyncio.timeout(3):
            assert len(await waiting) == 1
    again.close()


async def test_a_page_is_bounded_in_rows_and_bytes(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, *range(10)))
        await writer.write(lambda tx: journal.append(tx, STREAM, "t", "s", {"n": 10, "big": "x" * 5000}))
        await writer.write(appending(journal, 11, 12))
        with database.read() as conn:
            first, more = journal_store.page(conn, STREAM, 1, rows=4)
            assert (numbers(first), more) == ([0, 1, 2, 3], True)
            sized, more = journal_store.page(conn, STREAM, 10, size=1000)
            assert (numbers(sized), more) == ([9, 10], True)
            rest, more = journal_store.page(conn, STREAM, 12)
            assert (numbers(rest), more) == ([11, 12], False)
            assert journal_store.page(conn, STREAM, 14) == ([], False)
            assert journal_store.page(conn, "run/other", 1) == ([], False)
        assert all(isinstance(entry.data, bytes) for entry in stored(database))


# -- migrations -------------------------------------------------------------------------------------------


def test_the_migrated_schema_is_that_of_the_tables(backend: Backend) -> None:
    database = Database(backend.create(migrated=False))
    upgrade(database)
    with database.write_engine.connect() as conn:
        options = {"compare_type": True, "render_as_batch": True}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), metadata) == []
        assert MigrationContext.configure(conn).get_current_revision() == migrations.head()
    database.close()


def test_upgrading_twice_does_nothing(backend: Backend) -> None:
    database = Database(backend.create(migrated=False))
    upgrade(database)
    with database.write_engine.begin() as conn:
        conn.execute(insert(engine_store.blobs).values(**blob("kept")))
    upgrade(database)
    with database.read() as conn:
        assert conn.execute(select(func.count()).select_from(engine_store.blobs)).scalar_one() == 1
    database.close()


OLD_VALUES = {
    "data": b'{"v":1,"run_id":"one"}',
    "spec": '{"jobs":[{"name":"j","steps":[{"name":"s","uses":"dummy","action":"run"}]}]}',
}
OLD_ROWS = [
    "INSERT INTO journal_head (id, epoch, next) VALUES (1, '0a1b2c3d', 3)",
    "INSERT INTO entries VALUES (1, 'run/one', '', 'run.created', 5, 'project/p', :data)",
    "INSERT INTO entries VALUES (2, 'run/one', '', 'run.started', 6, 'project/p', :data)",
    "INSERT INTO stream_watermarks VALUES ('run/none', 1)",
    "INSERT INTO agents (agent_id, id, name, platform, region, labels, metadata, slots, max_sessions, os, arch, version,"
    " ip, token_hash, online, draining, connection_id, last_heartbeat, offline_since, created_at, updated_at) VALUES"
    """ ('old', 'id', 'old', 'process', '', '{"os":"arm64"}', '{}', 3, 0, '', '', '', '', 'h', true, false, 'c', 1, 0, 1, 1)""",
    "INSERT INTO leases VALUES ('try-1', 'old', 'step', 'started', 1, 2)",
    "INSERT INTO runs (id, kind, name, project, pipeline_id, status, reason, spec, variables, trigger, triggered_by,"
    " checkout, branch, commit_sha, rerun_of, cancel_reason, created_at, started_at, finished_at) VALUES"
    " ('one', 'pipeline', 'build', 'p', '', 'running', '', :spec, '{}', 'manual', 'me', NULL, '', '', '', '', 1, 1, 0)",
    'INSERT INTO jobs (id, run_id, "index", name, status, reason, round, lost, workspace, agent_id, fresh, not_before,'
    " deadline, kept_from, started_at, finished_at) VALUES"
    " ('job', 'one', 0, 'j', 'running', '', 1, 0, 'job', 'old', false, 0, 0, '', 1, 0)",
    'INSERT INTO steps (id, run_id, job_id, "index", name, status, reason, outputs, failures, lost, unstarted, attempts,'
    " current, stopping, kept_from, not_before, started_at, finished_at) VALUES"
    " ('step', 'one', 'job', 0, 's', 'running', '', '{}', 0, 0, 0, 1, 'try-1', '', '', 0, 1, 0)",
    "INSERT INTO attempts (id, run_id, step_id, number, status, selector, agent_id, exit_code, error, reason, lines,"
    " percent, queued_at, started_at, finished_at) VALUES"
    " ('try-1', 'one', 'step', 1, 'running', '', 'old', 0, '', '', 7, 5, 1, 1, 0)",
]


async def test_a_database_of_the_first_release_opens(backend: Backend) -> None:
    """As release 0001 left it, with a run under way; every later release must be able to go on from there."""
    database = Database(backend.create(migrated=False))
    upgrade(database, "0001")
    with database.write_engine.begin() as conn:
        for row in OLD_ROWS:
            conn.execute(text(row), {name: value for name, value in OLD_VALUES.items() if f":{name}" in row})
    upgrade(database)
    async with writing(database) as (writer, journal):
        assert journal.epoch == "0a1b2c3d"
        await writer.write(appending(journal, 1))
        assert [entry.offset for entry in stored(database)] == [1, 2, 3]
    with database.read() as conn:
        run = engine_store.load_run(conn, "one")
        assert run is not None
        assert [step.current for job in run.jobs for step in job.steps] == ["try-1"]
        agent = fleet_store.agent(conn, "old")
        assert agent is not None
        assert (agent.online, agent.profile.labels, agent.profile.slots) == (True, {"os": "arm64"}, 3)
        assert fleet_store.lease(conn, "try-1") is not None
    database.close()


def test_a_database_of_a_newer_release_is_refused_and_left_alone(backend: Backend) -> None:
    database = Database(backend.create())
    with database.write_engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        conn.execute(insert(engine_store.blobs).values(**blob("theirs")))
    with pytest.raises(StorageTooNew) as refused:
        upgrade(database)
    assert refused.value.code == "STORAGE_TOO_NEW"
    with database.read() as conn:
        assert conn.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
        assert conn.execute(select(engine_store.blobs.c.id)).scalars().all() == ["theirs"]
    database.close()


def test_a_migration_that_fails_half_way_leaves_nothing_behind(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(backend.create(migrated=False))
    monkeypatch.setattr(command, "upgrade", failing_after(command.upgrade))
    with pytest.raises(OSError, match="pulled"):
        upgrade(database)
    monkeypatch.undo()
    upgrade(database)
    with database.write_engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    database.close()


def failing_after(whole: Callable[..., None]) -> Callable[..., None]:
    """The plug is pulled after the tables were made and before the revision was committed."""

    def broken(config: Any, revision: str) -> None:
        connection = config.attributes["connection"]
        made = 0

        def before(conn: Connection, cursor: Any, statement: str, *more: Any) -> None:
            nonlocal made
            made += "CREATE TABLE" in statement
            if made == 5:
                raise OSError("the plug was pulled")

        event.listen(connection, "before_cursor_execute", before)
        try:
            whole(config, revision)
        finally:
            event.remove(connection, "before_cursor_execute", before)

    return broken
