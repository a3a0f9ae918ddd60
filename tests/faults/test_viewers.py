"""Viewers that do not read or do not disconnect: server and other viewers are not affected, and no entry is missed."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from support.fake_agent import FakeAgent, batch, registered
from support.faults.fleet import LONG, PATIENT, ROUNDS, Fleet, dummy, fleet, on, shell, until
from support.faults.readers import (
    TEXT,
    Reader,
    connections,
    followers,
    masked,
    stalled,
    ws_messages,
    ws_request,
)
from support.faults.rude import replay, rest
from support.faults.watch import Pulse
from support.server import Server, spec_for

STEPS = 10
LINES = 100_000 if LONG else 40_000


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


async def test_a_repeatedly_stalled_reader_gets_every_line_once(made: Fleet) -> None:
    """All transitions between reading from the journal, from memory and live, on one connection."""
    for kind in ("sse", "ws"):
        gate, each = made.directory / f"hiccup-{kind}-gate", LINES // STEPS
        script = (
            f"until [ -e {gate} ]; do sleep 0.02; done; n=1; while [ $n -le {LINES} ]; "
            f"do seq -f 'line %.0f' $n $((n+{each}-1)); n=$((n+{each})); sleep 0.1; done"
        )
        run_id = made.run(f"hiccup-{kind}", on("a", {"name": "j", "steps": [shell("s", script)]}))
        one = Reader(made.server, made.server.admin, run_id, kind)
        sock = stalled(one)
        sock.settimeout(120)
        held = bytearray()
        gate.touch()
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            held += await asyncio.to_thread(sock.recv, 16 << 10)
            await asyncio.sleep(0.02)  # it reads slower than the lines come
        held += await asyncio.to_thread(rest, sock)
        await replay(one, bytes(held))
        assert (one.lines, one.ended) == (LINES, True)


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
                data = json.loads((await asyncio.wait_for(anext(messages), 60))[1])["data"]
                seen[data["step_run_id"]].append(data["line_number"])
                assert data["line_number"] == len(seen[data["step_run_id"]]), "lost, doubled, or out of order"
        assert [len(numbers) for numbers in seen.values()] == [ROUNDS * 72 * 30] * 2
    finally:
        writer.transport.abort()


def _batch(agent: FakeAgent, task: Any, seq: int) -> Any:
    wide = "x" * 5000
    return batch(task.step_run_id, seq, [f"{seq} {at} {wide}" for at in range(60)], agent_id=agent.agent_id)


# -- half-open viewers ------------------------------------------------------------------------------------


@pytest.fixture
def running(made: Fleet) -> Iterator[str]:
    """A run that lasts for the whole test."""
    run_id = made.run(f"hang{time.monotonic_ns()}", on("a", {"name": "j", "steps": [dummy("s", hang=True)]}))
    made.running(run_id)
    yield run_id
    made.server.ask("POST", f"/workflow-runs/{run_id}/cancel")
    made.ended(run_id)


def test_half_open_viewers(made: Fleet, running: str) -> None:
    """They disconnected without the server's knowledge; the run continues and ends for all others."""
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
