"""Sockets in the hands of the feed: each gets every entry once and in order, whenever it comes and however it reads."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.journal import Cursor, Entry, Journal, Selection
from pilothouse.journal.outlet import Outlet
from pilothouse.server.events import CloudEvents
from pilothouse.storage import Database
from support.journals import STREAM, appending, writing
from support.waiting import eventually


class Socket:
    """A connection that takes everything, or nothing for a while."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.writable = True
        self._outlets: list[Outlet] = []

    def write(self, data: bytes) -> None:
        """Some messages in one piece."""
        self.got += [b"id: " + message for message in data.split(b"id: ")[1:]]

    def attach(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        self._outlets.remove(outlet)

    def fill(self) -> None:
        """It takes no more; what is written all the same it has."""
        self.writable = False
        for outlet in self._outlets:
            outlet.paused()

    def drain(self) -> None:
        """It takes more again."""
        self.writable = True
        for outlet in list(self._outlets):
            outlet.pump()

    @property
    def offsets(self) -> list[int]:
        """Each message has the cursor after its entry."""
        return [int(message.split(b".")[1]) - 1 for message in self.got]


async def joined(journal: Journal, cursor: str = "start", stream: str | None = STREAM) -> Socket:
    """A socket that follows a stream."""
    fmt = CloudEvents(journal.epoch)
    reader = await journal.feed.reader(Selection(stream), fmt, lambda scope: True, cursor)
    socket = Socket()
    journal.feed.hand_over(reader, socket, lambda outlet: None).pump()
    return socket


async def test_committed_and_not_published_yet(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page from disk may hold entries that are about to be published: they must not be sent twice."""
    late: list[list[Entry]] = []
    async with writing(database) as (writer, journal):
        publish = journal.feed.publish
        await writer.write(appending(journal, 0, stream="run/other"))
        monkeypatch.setattr(journal.feed, "publish", late.append)
        await writer.write(appending(journal, 1, 2))
        sockets = [await joined(journal), await joined(journal, stream=None)]
        await eventually(lambda: bool(sockets[1].got))
        for batch in late:
            publish(batch)
        monkeypatch.undo()
        await writer.write(appending(journal, 3))
        await eventually(lambda: all(4 in socket.offsets for socket in sockets))
        assert [socket.offsets for socket in sockets] == [[2, 3, 4], [1, 2, 3, 4]]


class World:
    """A journal whose commits are published when the test wants it, and its sockets."""

    def __init__(self, journal: Journal, database: Database, max_entries: int) -> None:
        self.journal = journal
        self.database = database
        self.pending: list[list[Entry]] = []
        self.sockets: list[tuple[Socket, int, str | None]] = []
        self.committed: dict[str, list[int]] = {STREAM: [], "run/other": []}
        journal.feed.window._max_entries = max_entries

    async def commit(self, streams: list[str]) -> None:
        """Committed but not published."""
        staged = [Entry(0, stream, "", "step.noted", 0, "project/p", b"{}") for stream in streams]
        with self.database.write_engine.begin() as conn:
            self.pending.append(self.journal.prepare(conn, staged))
        for entry in staged:
            self.committed[entry.stream].append(entry.offset)

    async def publish(self, count: int) -> None:
        """Publish the oldest commits in one iteration."""
        for batch in self.pending[:count]:
            self.journal.publish(batch)
        del self.pending[:count]

    async def open(self, stream: str | None, at: int) -> None:
        """A reader from the start, or from any cursor of its stream."""
        places = [
            0,
            *(offset for socket, _, its in self.sockets if its == stream for offset in socket.offsets),
        ]
        place = places[at % len(places)]
        cursor = Cursor(place + 1).text(self.journal.epoch) if place else "start"
        self.sockets.append((await joined(self.journal, cursor, stream), place, stream))

    async def fill(self, which: int) -> None:
        """One socket takes no more, if there is one."""
        if self.sockets:
            self.sockets[which % len(self.sockets)][0].fill()

    async def drain(self, which: int) -> None:
        """One socket takes more again."""
        if self.sockets:
            self.sockets[which % len(self.sockets)][0].drain()

    async def rest(self, turns: int) -> None:
        """Loaders and the event loop go on for a while."""
        for _ in range(turns):
            await asyncio.sleep(0.0005)

    async def settle(self) -> None:
        """Everything is published and everyone reads."""
        await self.publish(len(self.pending))
        for socket, place, stream in self.sockets:
            socket.drain()
            whole = (
                sorted(itertools.chain(*self.committed.values()))
                if stream is None
                else self.committed[stream]
            )
            wanted = [offset for offset in whole if offset > place]
            await eventually(partial(_has, socket, len(wanted)))
            assert socket.offsets == wanted


def _has(socket: Socket, count: int) -> bool:
    return len(socket.got) >= count


streams = st.sampled_from([STREAM, "run/other"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(streams, min_size=1, max_size=4)),
        st.tuples(st.just("publish"), st.integers(1, 3)),
        st.tuples(st.just("open"), st.sampled_from([STREAM, "run/other", None]), st.integers(0, 20)),
        st.tuples(st.just("fill"), st.integers(0, 5)),
        st.tuples(st.just("drain"), st.integers(0, 5)),
        st.tuples(st.just("rest"), st.integers(0, 3)),
    ),
    max_size=40,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from([65, 66, 10_000]), operations)
def test_every_socket_gets_all_of_its_own_once_and_in_order(
    migrated_sqlite: str, tmp_path: Path, max_entries: int, ops: list[tuple[Any, ...]]
) -> None:
    """Commits, their publication, readers that come and stop reading, in any order."""
    path = tmp_path / f"{len(list(tmp_path.glob('*.db')))}.db"  # each example has one of its own
    path.write_bytes(Path(migrated_sqlite).read_bytes())

    async def play() -> None:
        database = Database(f"sqlite:///{path}")
        journal = Journal(database)
        world = World(journal, database, max_entries)
        for name, *words in ops:
            await getattr(world, name)(*words)
        await world.settle()
        journal.feed.close()
        database.close()

    asyncio.run(play())
