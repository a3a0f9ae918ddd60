"""Viewers that do not read, or do not leave: they harm neither the server nor the others, and miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from support.fake_agent import FakeAgent, batch, registered
from support.faults import LONG, PATIENT, ROUNDS, Fleet, dummy, fleet, on, until
from support.faults_readers import (
    TEXT,
    Reader,
    connections,
    masked,
    stalled,
    ws_messages,
    ws_request,
)
from support.faults_watch import Memory, Pulse
from support.server import Server, spec_for
from support.waiting import eventually

GOOD = 50 if LONG else 12
STEPS = 10
LINES = 100_000 if LONG else 40_000
STALL = 22.0 if LONG else 0.0
"""Seconds the stalled ones go on doing nothing when everybody else is done."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("viewers"), **PATIENT) as made:
        made.agent("a").start()
        yield made


@pytest.fixture(autouse=True)
def _fresh(made: Fleet) -> None:
    made.unforeseen()  # of the test before


@pytest.fixture
def server(made: Fleet) -> Server:
    return made.server


def burst(made: Fleet, name: str, lines: int) -> str:
    """A run of one step that prints numbered lines as fast as it can."""
    return made.run(name, on("a", {"name": "j", "steps": [dummy("s", lines=lines)]}))


class Stage:
    """A run whose one step is a gate away from printing all its lines, and its readers."""

    def __init__(self, made: Fleet, name: str) -> None:
        self.made, self.server = made, made.server
        self.gate = made.directory / f"{name}-gate"
        lines = f"until [ -e {self.gate} ]; do sleep 0.02; done; " + self._prints()
        step = {"name": "s", "uses": "shell", "args": {"script": lines}}
        self.run_id = made.run(name, on("a", {"name": "j", "steps": [step]}))

    @staticmethod
    def _prints() -> str:
        # In ten bursts: what a good reader waits for is the server, not the end of one long queue.
        each = LINES // STEPS
        return f"n=1; while [ $n -le {LINES} ]; do seq -f 'line %.0f' $n $((n+{each}-1)); n=$((n+{each})); sleep 0.1; done"

    def reader(self, kind: str = "sse") -> Reader:
        return Reader(self.server, self.server.admin, self.run_id, kind)

    async def play(self, good: list[Reader]) -> float:
        """Let it print; the median of the seconds from commit to reader."""
        reading = [asyncio.create_task(one.follow(90)) for one in good]
        await eventually(lambda: followers(self.server) >= len(good))
        self.gate.touch()
        await asyncio.gather(*reading)
        assert {one.lines for one in good} == {LINES}
        return statistics.median(delay for one in good for delay in one.delays)


def followers(server: Server) -> int:
    text = server.call("GET", "/metrics", None).text
    return int(
        next(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("pilothouse_stream_followers ")
        )
    )


async def test_those_who_do_not_read_cost_the_others_nothing(made: Fleet) -> None:
    alone = Stage(made, "alone")
    await alone.play([alone.reader() for _ in range(GOOD)])  # the first time fills pools and caches
    alone = Stage(made, "alone-again")
    with Memory(made.server) as usual:
        median = await alone.play([alone.reader() for _ in range(GOOD)])
    crowd = Stage(made, "crowd")
    rude = [crowd.reader("sse"), crowd.reader("ws"), crowd.reader("sse"), crowd.reader("ws")]
    with Memory(made.server) as memory:
        socks = [stalled(one) for one in rude]
        await eventually(lambda: followers(made.server) >= len(rude))
        with_them = await crowd.play([crowd.reader() for _ in range(GOOD)])
        made.ended(crowd.run_id)
        await asyncio.sleep(STALL)  # they do nothing, for so long
        grown = memory.growth
        print(f"medians {median:.4f} and {with_them:.4f} s; grown {usual.growth:.0f} and {grown:.0f} MiB")
        assert with_them <= 3 * median + 0.1
        assert grown < 64 + usual.growth
        for one, sock in zip(rude, socks, strict=True):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            async with asyncio.timeout(30):
                await one.read(sock=sock)
            assert (one.lines, one.ended) == (LINES, True), one.kind
    assert made.unforeseen() == []


async def test_one_who_stalls_again_and_again_gets_every_line_once(made: Fleet) -> None:
    """Behind, in memory, live, behind: all ways between them, on one connection."""
    for kind in ("sse", "ws"):
        stage = Stage(made, f"hiccup-{kind}")
        one = stage.reader(kind)
        sock = stalled(one)
        sock.settimeout(20)
        held = bytearray()
        stage.gate.touch()
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            held += await asyncio.to_thread(sock.recv, 16 << 10)
            await asyncio.sleep(0.02)  # it reads slower than the lines come
        rest = await asyncio.to_thread(_rest, sock)
        await _replay(one, bytes(held) + rest)
        assert (one.lines, one.ended) == (LINES, True)


def _rest(sock: socket.socket) -> bytes:
    """All that comes until the run is over."""
    found = bytearray()
    with contextlib.suppress(TimeoutError):
        while data := sock.recv(1 << 20):
            found += data
            if any(
                end in found[-3000:] for end in (b'"type":"run.completed"', b'"type":"workflow_completed"')
            ):
                sock.settimeout(1)  # only the rest of this last message is still to come
    sock.close()
    return bytes(found)


async def _replay(one: Reader, received: bytes) -> None:
    """Let the reader take these bytes as if they came from a socket."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def send() -> None:
        with contextlib.suppress(OSError), ours:
            ours.sendall(received)

    sending = asyncio.create_task(asyncio.to_thread(send))
    await one.read(sock=theirs)
    await sending


# -- one socket, several channels -----------------------------------------------------------------------


@pytest.fixture
async def two_steps(made: Fleet) -> AsyncIterator[tuple[FakeAgent, list[Any], str]]:
    """A run with two steps at the same time, carried out by the test."""
    name = f"v{time.monotonic_ns()}"
    spec = spec_for(name)
    spec["jobs"].append({**spec["jobs"][0], "name": "other"})
    pipeline = made.server.pipeline(name, spec)
    async with await registered(made.server, name) as agent:
        made.server.trigger(pipeline)
        tasks = [await agent.task(), await agent.task()]
        for task in tasks:
            await agent.ack(task)
        yield agent, tasks, pipeline


async def test_two_channels_on_one_slow_socket(
    made: Fleet, two_steps: tuple[FakeAgent, list[Any], str]
) -> None:
    """What one channel writes fills the socket of the other, in the midst of a commit that concerns both."""
    agent, tasks, pipeline = two_steps
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", made.server.settings["port"]))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    try:
        writer.write(ws_request("/api/v1/ws", made.server.admin))
        await reader.readuntil(b"\r\n\r\n")
        messages = ws_messages(reader)
        for task in tasks:
            params = {"pipelineId": pipeline, "jobId": task.job_id, "stepRunId": task.step_run_id}
            writer.write(masked(TEXT, json.dumps({"channel": "channel_log", "params": params}).encode()))
            kinds = [json.loads((await anext(messages))[1])["type"] for _ in range(2)]
            assert kinds == ["subscribed", "history_done"]
        seen: dict[str, list[int]] = {task.step_run_id: [] for task in tasks}
        for first in range(0, ROUNDS * 72, 24):
            # Many in one call, so that one commit holds lines of both; more than any socket takes at once.
            await agent.push(*(_batch(agent, tasks[n % 2], first + n) for n in range(1, 25)))
            for _ in range(24 * 60):
                data = json.loads((await asyncio.wait_for(anext(messages), 10))[1])["data"]
                seen[data["step_run_id"]].append(data["line_number"])
                assert data["line_number"] == len(seen[data["step_run_id"]]), "lost, doubled, or out of order"
        assert [len(numbers) for numbers in seen.values()] == [ROUNDS * 72 * 30] * 2
    finally:
        writer.transport.abort()


def _batch(agent: FakeAgent, task: Any, seq: int) -> Any:
    wide = "x" * 5000
    return batch(task.step_run_id, seq, [f"{seq} {at} {wide}" for at in range(60)], agent_id=agent.agent_id)


# -- those who are not there ------------------------------------------------------------------------------


@pytest.fixture
def running(made: Fleet) -> Iterator[str]:
    """A run that goes on for as long as the test."""
    run_id = made.run(f"hang{time.monotonic_ns()}", on("a", {"name": "j", "steps": [dummy("s", hang=True)]}))
    made.running(run_id)
    yield run_id
    made.server.ask("POST", f"/workflow-runs/{run_id}/cancel")
    made.ended(run_id)


def test_half_open_viewers(made: Fleet, running: str) -> None:
    """They are gone and nobody has told the server; the run prints on, and ends for all others."""
    server = made.server
    open_before = followers(server)
    request = Reader(server, server.admin, running, "ws").request
    with connections(server, 100) as socks, Pulse(server) as pulse:
        for sock in socks:
            sock.sendall(request)
        until(lambda: followers(server) >= open_before + 100, what="all are in")
        for sock in socks[:50]:
            sock.shutdown(socket.SHUT_WR)  # half-closed: they might still read
        run_id = burst(made, f"among{time.monotonic_ns()}", 5000)
        assert made.ended(run_id)["status"] == "succeeded"
        pulse.healthy()
    until(lambda: followers(server) <= open_before, what="all are forgotten")
    assert made.unforeseen() == []
