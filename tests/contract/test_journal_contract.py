"""Cursors, readers and retention on both databases: no gap, no duplicate, and no silence."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import Connection

from pilothouse.journal import Cursor, CursorExpired, CursorInvalid, Journal, Selection
from pilothouse.journal import feed as feed_module
from pilothouse.journal import store as journal_store
from pilothouse.storage import Database
from support.databases import Backend, reopened
from support.journals import STREAM, appending, follow, numbers, read_messages, stored, writing
from support.waiting import PATIENCE


async def test_epoch_and_cursors_survive_a_restart(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1, 2, 3))
        epoch, last = journal.epoch, (await read_messages(await follow(journal, Selection(STREAM)), 3))[-1]
    cursor = last.split(b"\n")[0].removeprefix(b"id: ").decode()
    again = reopened(database)
    async with writing(again) as (writer, journal):
        assert journal.epoch == epoch
        resumed = await follow(journal, Selection(STREAM), cursor)
        await writer.write(appending(journal, 4))
        [got] = await read_messages(resumed, 1)
        assert b'"n":4' in got
        await read_messages(await follow(journal, Selection(STREAM)), 4)
    again.close()


async def test_two_databases_have_two_epochs(backend: Backend) -> None:
    epochs = set()
    for _ in range(2):
        database = Database(backend.create())
        epochs.add(Journal(database).epoch)
        database.close()
    assert len(epochs) == 2


async def test_deletion_is_reported_and_idle_streams_keep_their_cursors(database: Database) -> None:
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
            await read_messages(reader, expected)
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
            await follow(
                journal, Selection(STREAM), "00000000.1.0" if journal.epoch != "0" * 8 else "11111111.1.0"
            )
        with pytest.raises(CursorExpired):
            await follow(journal, Selection(STREAM), Cursor(3).text(journal.epoch))
        with pytest.raises(CursorInvalid):
            await follow(journal, Selection(STREAM), "1")
        at_the_head = await follow(journal, Selection(STREAM), Cursor(2).text(journal.epoch))
        await read_messages(at_the_head, 0)


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
        async with asyncio.timeout(PATIENCE):
            assert len(await reader.next()) == 1
    again.close()


async def test_what_is_published_during_an_empty_load_is_not_missed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wakeup while the loader is still reading must not be lost."""
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, 1, stream="run/other"))
    again = reopened(database)
    reading, go_on = threading.Event(), threading.Event()
    page = journal_store.page

    def slow_page(conn: Connection, *args: Any, **more: Any) -> Any:
        found = page(conn, *args, **more)
        reading.set()
        assert go_on.wait(PATIENCE)
        return found

    async with writing(again) as (writer, journal):
        reader = await follow(journal, Selection(STREAM))
        monkeypatch.setattr(feed_module.store, "page", slow_page)
        waiting = asyncio.create_task(reader.next())
        assert await asyncio.to_thread(reading.wait, PATIENCE)
        await writer.write(appending(journal, 2))
        go_on.set()
        async with asyncio.timeout(PATIENCE):
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


async def test_what_another_server_commits_is_found(database: Database) -> None:
    """Both on one database; the second finds the first's entries by polling and misses none."""
    other = reopened(database)
    async with writing(database) as (first, ours), writing(other) as (second, theirs):
        waiting = await follow(theirs, Selection(STREAM))
        elsewhere = await follow(theirs, Selection("run/other"))
        got = asyncio.create_task(read_messages(waiting, 4))
        await asyncio.sleep(0)
        await first.write(appending(ours, 1, 2))
        await theirs.feed.check_other_servers()
        await second.write(appending(theirs, 3))
        await first.write(appending(ours, 4))
        await theirs.feed.check_other_servers()
        assert [b'"n":%d' % n in message for n, message in enumerate(await got, 1)] == [True] * 4
        await second.write(appending(theirs, 5, stream="run/other"))
        await read_messages(elsewhere, 1)
    other.close()


async def test_a_cursor_of_a_server_that_is_ahead(database: Database) -> None:
    other = reopened(database)
    async with writing(database) as (first, ours), writing(other) as (_, theirs):
        await first.write(appending(ours, 1, 2, 3))
        late = await follow(theirs, Selection(STREAM), Cursor(3).text(ours.epoch))
        [message] = await read_messages(late, 1)
        assert b'"n":3' in message
    other.close()
