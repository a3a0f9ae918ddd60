"""A writer and a journal on a database, and what tests ask of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pilothouse.journal import Entry, Journal, Selection, Subscription
from pilothouse.journal import store as journal_store
from pilothouse.server.events import CloudEvents
from pilothouse.storage import Database, Tx, Writer
from support.waiting import PATIENCE

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


@asynccontextmanager
async def held_up(writer: Writer) -> AsyncIterator[None]:
    """The writer is busy with something else: what is handed in meanwhile becomes one group."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(tx: Tx) -> None:
        begun.set()
        go_on.wait(PATIENCE)

    waiting = asyncio.create_task(writer.write(wait))
    await asyncio.to_thread(begun.wait, PATIENCE)
    try:
        yield
        await asyncio.sleep(0)  # what was handed in as tasks is in the queue after this
    finally:
        go_on.set()
        await waiting


def appending(
    journal: Journal, *numbers: int, stream: str = STREAM, type: str = "step.noted"
) -> Callable[[Tx], None]:
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


async def read_messages(subscription: Subscription, count: int) -> list[bytes]:
    """Messages a reader receives: this many and no more."""
    got: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(got) < count:
            got += await subscription.next()
    assert len(got) == count
    assert await subscription.past() == []
    return got


def raising(error: Exception) -> Callable[..., Any]:
    """Something that always fails."""

    def fail(*args: Any, **more: Any) -> None:
        raise error

    return fail
