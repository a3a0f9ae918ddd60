"""A thousand normal readers are not affected by slow, stalled, half-open and abusive ones.

What a good reader waits for is measured without the others and with them, in turns in the same test, so that a busy
machine makes no difference; in seconds from the commit of a line to its reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.faults.crowd import crowd
from support.faults.effort import unit
from support.faults.fleet import LONG, PATIENT, Fleet, dummy, fleet, on
from support.faults.readers import Reader, followers, room_for
from support.faults.rude import Rude, abuse
from support.faults.watch import Memory
from support.server import Server
from support.waiting import eventually

GOOD = 1000 if LONG else 200
CAREFUL = 12
"""Readers that measure delays."""
HALF_OPEN = 50
STALL = 60.0 if LONG else 3.0
"""Seconds for which a reader pauses."""
PAST = 800_000 if LONG else 50_000
"""Lines printed before anything is measured."""
EACH, EVERY = 200, 0.1
"""Lines in a burst, and seconds between bursts."""


@dataclass
class Delays:
    """Of all careful readers of one run; seconds."""

    median: float
    late: float  # of 20 lines, 19 come sooner


class Stage:
    """A run whose one step prints numbered lines for so many seconds, once its gate is open."""

    def __init__(self, made: Fleet, name: str, seconds: float) -> None:
        self.made, self.server, self.seconds = made, made.server, seconds
        self.lines = int(seconds / EVERY) * EACH
        self.gate = made.directory / f"{name}-gate"
        script = (
            f"until [ -e {self.gate} ]; do sleep 0.02; done; n=1; while [ $n -le {self.lines} ]; "
            f"do seq -f 'line %.0f' $n $((n+{EACH - 1})); n=$((n+{EACH})); sleep {EVERY}; done"
        )
        step = {"name": "s", "uses": "shell", "args": {"script": script}}
        self.run_id = made.run(name, on("a", {"name": "j", "steps": [step]}))

    def reader(self, kind: str = "sse") -> Reader:
        """One of this run."""
        return Reader(self.server, self.server.admin, self.run_id, kind)

    async def play(self) -> Delays:
        """Let it print before all good readers; each must get every line once and in order."""
        before = followers(self.server)
        careful = [self.reader("ws" if at % 6 == 0 else "sse") for at in range(CAREFUL)]
        reading = [asyncio.create_task(one.follow(self.seconds * 5 + 300)) for one in careful]
        port, token = self.server.settings["port"], self.server.admin
        with crowd(port, self.run_id, GOOD - CAREFUL, token) as others:
            await asyncio.to_thread(others.opened)
            await eventually(lambda: followers(self.server) >= before + GOOD, 120)
            self.gate.touch()
            await asyncio.gather(*reading)
            self.bytes = await asyncio.to_thread(others.done, self.lines)
        assert {one.lines for one in careful} == {self.lines}
        delays = sorted(delay for one in careful for delay in one.delays)
        return Delays(statistics.median(delays), delays[len(delays) * 19 // 20])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    room_for(GOOD + HALF_OPEN + 500)
    with fleet(tmp_path_factory.mktemp("crowd"), **PATIENT) as made:
        made.agent("a").start()
        yield made


def pauses(seconds: float) -> bool:
    """Reads normally, pauses for :data:`STALL`, then reads normally again."""
    return not STALL / 10 < seconds < STALL * 1.1


def rabble(stage: Stage) -> list[Rude]:
    """Readers with each kind of misbehavior, over SSE and WebSocket."""
    return [
        one
        for kind in ("sse", "ws")
        for one in (
            Rude(stage.reader(kind)),  # reads nothing at all
            Rude(stage.reader(kind)),
            Rude(stage.reader(kind), lambda seconds: True),  # slower than the lines come
            Rude(stage.reader(kind), pauses, slow=False),
        )
    ]


@contextlib.contextmanager
def half_open(server: Server, stage: Stage) -> Iterator[None]:
    """Clients that have closed their sending side and do not read."""
    with contextlib.ExitStack() as stack:
        for at in range(HALF_OPEN):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.settings["port"])))
            sock.sendall(stage.reader(("sse", "ws")[at % 2]).request)
            if at % 4 < 2:
                sock.shutdown(socket.SHUT_WR)
        yield


@pytest.mark.parametrize("how", ["silent", "abusive"])
async def test_good_readers_are_not_affected_by_bad_ones(made: Fleet, how: str) -> None:
    """``silent``: readers that read little or nothing; ``abusive``: also readers that keep the server busy."""
    await _filled(made)
    alone = []
    with Memory(made.server) as usual:
        alone.append(await Stage(made, f"{how}-alone", max(3.0, STALL / 4)).play())
    stage = Stage(made, f"{how}-crowded", STALL * 1.2)
    with Memory(made.server) as memory:
        beside = await _beside_the_bad(made, stage, how == "abusive")
    alone.append(await Stage(made, f"{how}-alone-again", max(3.0, STALL / 4)).play())
    print(
        f"{GOOD} good readers beside {how} ones for {stage.seconds:.0f} s: {stage.lines} lines each, "
        f"{stage.bytes >> 20} MiB in all; alone {alone}, beside them {beside}; "
        f"memory grew {usual.growth:.0f} MiB alone, {memory.growth:.0f} beside them"
    )
    slack = statistics.median(unit() for _ in range(20)) * (300 if how == "abusive" else 100)
    assert beside.median <= 3 * max(one.median for one in alone) + slack
    assert beside.late <= 4 * max(one.late for one in alone) + slack
    assert memory.growth < 128 + usual.growth, "what they do not read would be over a GiB"
    assert made.unforeseen() == []


async def _filled(made: Fleet) -> None:
    """Fill the caches of recent entries, so that they do not grow any more."""
    run_id = made.run(
        f"before{time.monotonic_ns()}", on("a", {"name": "j", "steps": [dummy("s", lines=PAST)]})
    )
    readers = [Reader(made.server, made.server.admin, run_id, kind) for kind in ("sse", "ws")]
    await asyncio.gather(*(one.follow(600) for one in readers))
    await Stage(made, f"first{time.monotonic_ns()}", 2).play()


async def _beside_the_bad(made: Fleet, stage: Stage, abused: bool) -> Delays:
    rude = rabble(stage)
    try:
        path = f"/api/v1/workflow-runs/{stage.run_id}/stream"
        with half_open(made.server, stage), abuse(made.server, path) if abused else contextlib.nullcontext():
            lingering = [asyncio.create_task(one.linger(stage.seconds)) for one in rude]
            delays = await stage.play()
            await asyncio.gather(*lingering)
        await asyncio.gather(*(one.catch_up() for one in rude))
        got = [(one.reader.kind, one.reader.lines, one.reader.ended) for one in rude]
        assert got == [(one.reader.kind, stage.lines, True) for one in rude]
        return delays
    finally:
        for one in rude:
            one.close()
