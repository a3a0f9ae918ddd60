"""Readers that catch up leave the event loop to others: large entries are encoded elsewhere, pages written in turns."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from contract.test_outlet_contract import Socket
from pilothouse.journal import Entry, Frame, Journal, Selection
from pilothouse.journal.model import COSTLY
from pilothouse.journal.turns import Turns
from pilothouse.server.events import CloudEvents
from pilothouse.storage import Database, Tx
from support.journals import STREAM, appending, writing
from support.waiting import eventually


class Watched:
    """The usual format; ``threads``: where entries of this size were encoded."""

    def __init__(self, journal: Journal) -> None:
        self._fmt = CloudEvents(journal.epoch)
        self.key = "watched"
        self.threads: list[tuple[bool, threading.Thread]] = []

    def ends(self, entry: Entry) -> bool:
        return False

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        self.threads.append((len(entry.data) >= COSTLY, threading.current_thread()))
        return self._fmt.encode(entry)


async def joined(journal: Journal, fmt: Any) -> Socket:
    """A socket that reads the stream from its beginning."""
    reader = await journal.feed.reader(Selection(STREAM), fmt, lambda scope: True, "start")
    socket = Socket()
    journal.feed.hand_over(reader, socket, lambda outlet: None).pump()
    return socket


@pytest.mark.parametrize("where", ["memory", "disk"])
async def test_large_entries_are_encoded_on_another_thread(database: Database, where: str) -> None:
    async with writing(database) as (writer, journal):

        def large(tx: Tx) -> None:
            journal.append(tx, STREAM, "step.noted", "project/p", {"text": "x" * COSTLY})

        await writer.write(appending(journal, 1))
        await writer.write(large)
        await eventually(lambda: journal.feed.window.head == 3)
        if where == "disk":
            journal.feed.window.skip(3)
        fmt = Watched(journal)
        sockets = [await joined(journal, fmt) for _ in range(3)]
        await eventually(lambda: all(len(socket.got) == 2 for socket in sockets))
        assert [socket.offsets for socket in sockets] == [[1, 2]] * 3
        here = threading.current_thread()
        assert {thread is here for costly, thread in fmt.threads if costly} == {False}


async def test_pages_from_disk_are_written_in_turns(database: Database) -> None:
    async with writing(database) as (writer, journal):
        await writer.write(appending(journal, *range(5)))
        await eventually(lambda: journal.feed.window.head == 6)
        journal.feed.window.skip(6)
        journal.feed._turns = Turns(share=0)
        sockets: list[Socket] = []
        most = 0

        async def watch() -> None:
            nonlocal most
            before = 0
            while before < 20:
                await asyncio.sleep(0)
                now = sum(1 for socket in sockets if socket.got)
                most, before = max(most, now - before), now

        readers = [
            await journal.feed.reader(
                Selection(STREAM), CloudEvents(journal.epoch), lambda scope: True, "start"
            )
            for _ in range(20)
        ]
        sockets += [Socket() for _ in readers]
        for reader, socket in zip(readers, sockets, strict=True):
            journal.feed.hand_over(reader, socket, lambda outlet: None).pump()
        await asyncio.wait_for(watch(), 60)
        assert most <= 2, "so many pages were written in one iteration of the event loop"
        assert all(socket.offsets == [1, 2, 3, 4, 5] for socket in sockets)
