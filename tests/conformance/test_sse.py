"""Event streams read with a third-party parser (httpx-sse), with the bytes split and joined arbitrarily."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse

from support.conformance.recut import Sizes, recut
from support.faults.fleet import chance
from support.live_run import Live, begin
from support.server import Server, running
from support.waiting import PATIENCE, eventually

Event = tuple[str, str, str]
"""Id, type, data."""

CURSOR = re.compile(r"[0-9a-f]+\.(\d+)\.(\d+)")
LAST = ("run.completed", "workflow_completed")

LINES = [
    "plain",
    "",
    " a space before and behind ",
    "data: x",
    "id: 1.2.3",
    ": not a comment",
    "Ünïcödé, жук, 漢字, 🛠",
    "what some take for the end of a line: \u2028 \u2029 \u0085 \x0b \x0c",
    "a tab\tand a \\n that is none",
    "long " * 150,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("sse")) as server:
        yield server


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE, verify=False, trust_env=False) as client:
        yield client


@dataclass(frozen=True)
class Reader:
    """Reads one stream from its URL."""

    client: httpx.AsyncClient
    token: str
    path: str

    async def read(self, url: str, cursor: str = "") -> AsyncIterator[Event]:
        """The events of one connection, up to the last of the run."""
        headers = {"Authorization": f"Bearer {self.token}", **({"Last-Event-ID": cursor} if cursor else {})}
        async with aconnect_sse(self.client, "GET", url + self.path, headers=headers) as source:
            assert source.response.status_code == 200
            async for event in source.aiter_sse():
                if event.data:  # the standard dispatches nothing for a comment; this parser does
                    yield event.id, event.event, event.data
                    if event.event in LAST:
                        return

    async def whole(self, url: str, cursor: str = "") -> list[Event]:
        """All events (behind a cursor) over one connection."""
        async with contextlib.aclosing(self.read(url, cursor)) as events:
            return [event async for event in events]

    async def follow(self, url: str) -> list[Event]:
        """All events over as many connections as it takes; the last id brings on the next."""
        got: list[Event] = []
        while not got or got[-1][1] not in LAST:
            with contextlib.suppress(httpx.NetworkError, httpx.RemoteProtocolError):  # cut off
                async with contextlib.aclosing(self.read(url, got[-1][0] if got else "")) as events:
                    async for event in events:
                        assert all(event[0] != id for id, _, _ in got[-20:]), f"{event} came again"
                        got.append(event)
        return got


@pytest.fixture(params=["events", "run stream"])
def reader(request: pytest.FixtureRequest, client: httpx.AsyncClient, live: Live) -> Reader:
    path = f"/api/v1/workflow-runs/{live.run_id}/stream"
    if request.param == "events":
        path = f"/api/v1/events?stream=run/{live.run_id}"
    return Reader(client, live.server.admin, path)


def lines_in(events: list[Event]) -> list[str]:
    """The log lines in them."""
    lines = []
    for _, type, data in events:
        if type == "step_log":
            lines.append(json.loads(data)["line"])
        elif type == "step.logged":
            lines += json.loads(data)["data"]["lines"]
    return lines


def same(found: list[Any], expected: list[Any]) -> None:
    """Assert equality; for long values report only the first difference."""
    for at, (one, other) in enumerate(itertools.zip_longest(found, expected)):
        assert one == other, f"number {at} of {len(expected)}"


def complete(events: list[Event], lines: list[str]) -> None:
    """Every line once and in order, and ids that are cursors, each behind the one before."""
    same(lines_in(events), lines)
    assert all(json.loads(data)["type"] == type for _, type, data in events)
    found = [CURSOR.fullmatch(id) for id, _, _ in events]
    places = [(int(match[1]), int(match[2])) for match in found if match]
    assert len(places) == len(events)
    assert places == sorted(set(places))


def always(*sizes: int) -> Sizes:
    """Pieces of these sizes, over and over."""
    return lambda: itertools.cycle(sizes)


def at_random(rng: random.Random) -> Sizes:
    """Pieces of all sizes: mostly small, some that join a great deal."""
    return lambda: iter(lambda: int(2 ** rng.uniform(0, 12)), 0)


async def test_bytes_in_any_pieces(live: Live, reader: Reader) -> None:
    server, rng = live.server, chance("pieces")
    await live.say(*LINES[:4])
    await live.say(*LINES[4:])
    await live.end()
    expected = await reader.whole(server.url)
    complete(expected, [*LINES, "END"])
    ways = {
        "one by one": always(1),
        "two by two": always(1, 2),
        "sevens": always(7),
        "joined": always(1 << 20),
    }
    ways |= {f"at random {n}": at_random(rng) for n in range(20)}
    for way, sizes in ways.items():
        async with recut(server.settings["port"], sizes) as proxy:
            assert await reader.whole(proxy.url) == expected, way
            if way == "one by one":
                assert proxy.pieces > 3000


@pytest.mark.parametrize("reader", ["run stream"], indirect=True)
async def test_one_cut_at_every_position(live: Live, reader: Reader) -> None:
    await live.say("жук")
    await live.agent.finish(live.task)
    first, *expected = await reader.whole(live.server.url)
    complete(expected, ["жук"])
    assert len(expected) == 3
    cut = 1 << 20
    async with recut(live.server.settings["port"], lambda: iter((cut, 1 << 20, 1 << 20))) as proxy:
        await reader.whole(proxy.url, first[0])
        body = range(proxy.passed - 520, proxy.passed)
        for cut in body:
            assert await reader.whole(proxy.url, first[0]) == expected, cut
        assert proxy.accepted == 1 + len(body)


async def test_live_events_pass_through_pieces(live: Live, reader: Reader) -> None:
    """Messages arrive without later data, however they are split."""
    server, rng = live.server, chance("live pieces")
    seen: list[Event] = []
    lines: list[str] = []

    async def watch(url: str) -> None:
        async with contextlib.aclosing(reader.read(url)) as events:
            async for event in events:
                seen.append(event)

    async with recut(server.settings["port"], at_random(rng)) as proxy:
        watching = asyncio.create_task(watch(proxy.url))
        for number in range(20):
            fresh = [f"{number}.{n} {rng.choice(LINES)}" for n in range(rng.randint(1, 5))]
            lines += fresh
            await live.say(*fresh)
            await eventually(lambda said=list(lines): lines_in(seen) == said)
        await live.end()
        await watching
    complete(seen, [*lines, "END"])


async def test_cut_anywhere_and_resumed(live: Live, reader: Reader) -> None:
    """Broken off at random places, within events and between them, while more comes: nothing missing, nothing twice."""
    server, rng = live.server, chance("cuts")
    breaks = iter(lambda: rng.randint(1, 4000), 0)
    lines = [f"{n} {rng.choice(LINES)}" for n in range(400)]
    async with recut(server.settings["port"], at_random(rng), breaks) as proxy:
        watching = asyncio.create_task(reader.follow(proxy.url))
        for start in range(0, len(lines), 4):
            await live.say(*lines[start : start + 4])
        await live.end()
        got = await watching
        assert proxy.broken >= 20
    complete(got, [*lines, "END"])
    same(got, await reader.whole(server.url))


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
