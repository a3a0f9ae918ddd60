"""Offsets are commit order while several processes write into one PostgreSQL, and no reader misses an entry."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from pilothouse.journal import Entry, Journal, Selection, Subscription
from pilothouse.journal import store as journal_store
from pilothouse.storage import Database
from support.journals import appending, follow, stored, writing
from support.postgres import Postgres
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.postgres
CHILD = Path(__file__).parent.parent / "support" / "writing_child.py"
WRITERS = 3
ENOUGH = 200
"""Acknowledged use cases of each process, at least."""
TURNS = 20
"""So often another process goes on writing, and a page with something new is read, at least."""
CHILDREN = "writing-child"
"""What PostgreSQL knows the processes as."""


@pytest.fixture
def url(postgres: Postgres, migrated_postgres: str) -> Iterator[str]:
    """A database of its own with an empty journal."""
    name = postgres.create(migrated_postgres)
    database = Database(postgres.url(name))
    Journal(database).feed.close()
    database.close()
    postgres.execute("CREATE EXTENSION pg_walinspect", name)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def began(postgres: Postgres) -> str:
    """The end of PostgreSQL's own log of what it did (WAL), before the test."""
    return str(postgres.ask("SELECT pg_current_wal_insert_lsn()")[0][0])


class Child:
    """A process that writes until it is killed, and what was acknowledged to it."""

    def __init__(self, url: str, first: int) -> None:
        self.acknowledged: set[str] = set()
        self._pid = 0
        self._program = subprocess.Popen(
            [sys.executable, str(CHILD), f"{url}&application_name={CHILDREN}", str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._program.stdin is not None
        self._program.stdin.write("go\n")
        self._program.stdin.flush()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            word, *rest = line.split()
            if word == "pid":
                self._pid = int(rest[0])
            elif word == "ack":
                self.acknowledged.add(".".join(rest))

    @property
    def count(self) -> int:
        """How much was acknowledged to it; it must not have ended."""
        assert self._listening.is_alive(), "it has ended by itself"
        return len(self.acknowledged)

    def kill(self) -> None:
        """kill -9, in the middle of whatever it does."""
        if self._pid and self._program.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._program.kill()
        self._program.wait(PATIENCE)
        self._listening.join(PATIENCE)


class Watch(threading.Thread):
    """Reads the table on and on, each page on a snapshot of its own: the offsets, in the order they were seen.

    ``pages``: how many held something new; ``turns``: how often another process was the one that went on writing.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self.ahead: list[tuple[int, int]] = []
        self.pages = self.turns = 0
        self.done = threading.Event()
        self._database = Database(url)
        self._writer = ""

    def run(self) -> None:
        following, last = 1, False
        while not last:
            last = self.done.is_set()
            with self._database.read() as conn:
                page, _ = journal_store.page(conn, None, following, rows=100_000, size=1 << 40)
                head = journal_store.next_offset(conn)
            self._take(page)
            following = self.seen[-1] + 1 if self.seen else 1
            if head != following:
                self.ahead.append((head, following))
        self._database.close()

    def _take(self, page: list[Entry]) -> None:
        self.seen += [entry.offset for entry in page]
        self.pages += bool(page)
        for entry in page:
            writer = entry.body.get("id", "").split(".")[0]
            self.turns += writer not in ("", self._writer)
            self._writer = writer or self._writer


async def collect(reader: Subscription, into: list[int]) -> None:
    """The offsets that a reader is given."""
    while True:
        for message in await reader.next():
            into.append(int(message.split(b"\n", 1)[0].split(b".")[1]) - 1)


Found = dict[str | None, list[int]]
"""By stream (``None``: all of them), the offsets that a reader was given."""


@asynccontextmanager
async def reading_along(url: str, *, murmurs: bool) -> AsyncIterator[Found]:
    """A server with readers of everything and of one stream, and now and then, if it ``murmurs``, an entry of its own.

    At the end they have been given what there is.
    """
    database = Database(url)
    found: Found = {None: [], "run/1": []}
    async with writing(database) as (writer, journal):
        journal.feed.start()
        tasks = [
            asyncio.create_task(collect(await follow(journal, Selection(stream)), into))
            for stream, into in found.items()
        ]

        async def murmur() -> None:
            while True:
                await writer.write(appending(journal, 0, stream="run/mine"))
                await asyncio.sleep(0.02)

        if murmurs:
            tasks.append(asyncio.create_task(murmur()))
        try:
            yield found
            now = await asyncio.to_thread(stored, database)
            ends = {None: now[-1].offset, "run/1": max(e.offset for e in now if e.stream == "run/1")}
            await eventually(lambda: all(into and into[-1] >= ends[of] for of, into in found.items()))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            journal.feed.stop_all()
    database.close()


async def test_nobody_sees_an_entry_before_all_below_it(url: str, began: str, postgres: Postgres) -> None:
    """Several processes, each a real writer with a journal; -9 ends them in the middle of it."""
    children = [Child(url, 100 * number) for number in range(1, WRITERS + 1)]
    watches = [Watch(url) for _ in range(2)]

    def so_far() -> list[int]:
        assert all(watch.is_alive() for watch in watches)
        return [child.count for child in children] + [watch.pages for watch in watches]

    def enough() -> bool:
        grown = all(watch.pages > TURNS and watch.turns > TURNS for watch in watches)
        return grown and all(child.count >= ENOUGH for child in children)

    try:
        for watch in watches:
            watch.start()
        async with reading_along(url, murmurs=True) as found, reading_along(url, murmurs=False) as heard:
            await eventually(enough, progress=so_far)
            for child in children:
                await asyncio.to_thread(child.kill)
            # PostgreSQL ends a commit that it has begun, whether or not there still is somebody to tell.
            await eventually(lambda: not connections(postgres))
    finally:
        for child in children:
            child.kill()
        for watch in watches:
            watch.done.set()
        await eventually(
            lambda: not any(watch.is_alive() for watch in watches),
            progress=lambda: [len(watch.seen) for watch in watches],
        )
    database = Database(url)
    entries = stored(database)
    for watch in watches:
        assert watch.seen == list(range(1, len(watch.seen) + 1)), (
            "something appeared below what had been seen"
        )
        assert watch.ahead == [], "the head is not the end of what is there"
        assert len(watch.seen) == len(entries)
    assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1)), "neither hole nor double"
    for each in (found, heard):
        check_found(entries, each)
    check_order(database, entries, began)
    check_children(entries, children)
    database.close()


def connections(postgres: Postgres) -> int:
    """How many of the processes PostgreSQL still works for."""
    [[count]] = postgres.ask(f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{CHILDREN}'")
    return int(count)


def check_found(entries: list[Entry], found: Found) -> None:
    """Each reader was given what is there, up to some entry, once and in order."""
    for stream, offsets in found.items():
        there = [entry.offset for entry in entries if stream in (None, entry.stream)]
        assert offsets == there[: len(offsets)]
        assert len(offsets) > (WRITERS * ENOUGH if stream is None else ENOUGH // 10)


_COMMITTED = """
SELECT xid::text FROM pg_get_wal_records_info('{}', pg_current_wal_flush_lsn())
WHERE resource_manager = 'Transaction' AND record_type = 'COMMIT' ORDER BY start_lsn
"""


def check_order(database: Database, entries: list[Entry], began: str) -> None:
    """PostgreSQL's own word: in which order it has committed them. Its log has that order, its clock may step back."""
    with database.read() as conn:
        writers = conn.execute(text('SELECT xmin::text FROM entries ORDER BY "offset"')).scalars().all()
        assert journal_store.next_offset(conn) == len(entries) + 1
        committed = conn.execute(text(_COMMITTED.format(began))).scalars().all()
    assert len(writers) == len(entries)
    assert len(set(writers)) > TURNS
    places = [committed.index(writer) for writer in writers]
    assert places == sorted(places)


def check_children(entries: list[Entry], children: list[Child]) -> None:
    """What was acknowledged is there, and each writer's work in the order it was done."""
    ids = [entry.body["id"] for entry in entries if "id" in entry.body]
    assert len(ids) == len(set(ids))
    for child in children:
        assert child.acknowledged <= set(ids)
    by_writer: dict[tuple[int, int], list[int]] = defaultdict(list)
    for id in ids:
        process, one, number = map(int, id.split("."))
        by_writer[process, one].append(number)
    for numbers in by_writer.values():
        assert numbers == sorted(numbers)
