"""A stale connection: delayed in the network, it arrives after its successor.

It must neither replace the successor nor report the agent's held work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import grpc
import pytest

from pilothouse.fleet.grpc import GrpcChannel
from support.fake_agent import FakeAgent
from support.faults.fleet import PATIENT, Fleet, fleet
from support.faults.proxy import Proxy, proxy
from support.server import spec_for
from support.waiting import eventually

LONG = 60.0
"""Seconds after which something has surely not come."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("overtaken"), **PATIENT) as made:
        yield made


@pytest.fixture
def line(made: Fleet) -> Iterator[Proxy]:
    with proxy(made.server.grpc) as line:
        yield line


class Numbered(FakeAgent):
    """An agent that numbers its connections, as ``pilot agent`` does."""

    number = 0

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (*super().metadata, ("pilot-connection", str(self.number)))


async def test_a_stale_connection_of_the_same_agent(made: Fleet, line: Proxy) -> None:
    name = "haunted"
    async with Numbered(line.address, name) as ghost, Numbered(made.server.grpc, name) as living:
        await ghost.register(made.server.registration_token(max_uses=1))
        line.set(hold=True)
        ghost.number, living.number, living.token = 1, 2, ghost.token
        await ghost.connect()  # in flight, with the report that it holds nothing
        await living.connect()
        run_id = made.server.trigger(made.server.pipeline(name, spec_for(name)))
        task = await living.task(LONG)
        await living.ack(task)
        await eventually(lambda: [a["status"] for a in made.attempts(run_id)] == ["running"], LONG)
        line.set()
        assert ghost.closed is not None
        code, words = await asyncio.wait_for(asyncio.shield(ghost.closed), LONG)
        assert (code, words) == (grpc.StatusCode.UNAVAILABLE, "this connection is overtaken")
        await living.beat()
        await living.finish(task)
        shown = await asyncio.to_thread(made.ended, run_id)
        assert shown["status"] == "succeeded"
        assert living.closed is not None
        assert not living.closed.done()
        assert made.server.ask("GET", f"/agents/{name}")["status"] == "online"
    assert made.unforeseen() == []


async def test_with_a_higher_number_it_is_the_newer(made: Fleet) -> None:
    """An agent with a low number still connects: the number increases with each attempt."""
    name = "counting"
    async with Numbered(made.server.grpc, name) as older, Numbered(made.server.grpc, name) as newer:
        await older.register(made.server.registration_token(max_uses=1))
        older.number, newer.token = 3, older.token
        await older.connect()
        await eventually(lambda: made.server.ask("GET", f"/agents/{name}")["status"] == "online", LONG)
        for newer.number in (1, 2):
            with contextlib.suppress(grpc.aio.AioRpcError):  # it may be refused as soon as it is begun
                await newer.connect()
            assert newer.closed is not None
            code, words = await asyncio.wait_for(newer.closed, LONG)
            # A call refused before its first message may only get a write error.
            assert code is grpc.StatusCode.UNAVAILABLE or words == "Internal error from Core", (code, words)
        assert older.closed is not None
        assert not older.closed.done()
        newer.number = 3
        await newer.connect()
        code, _ = await asyncio.wait_for(asyncio.shield(older.closed), LONG)
        assert code is grpc.StatusCode.ABORTED
    assert made.unforeseen() == []


def test_unnumbered_connections_are_ordered_by_arrival() -> None:
    """Regardless of how long the credential lookup takes."""
    older, newer = GrpcChannel("a", arrived=1), GrpcChannel("a", arrived=2)
    assert newer.overtaken_by(older) == ""
    assert older.overtaken_by(newer) == "replaced"
    newer.close("replaced")  # by another credential of the agent
    assert older.overtaken_by(newer) == ""
    assert older.overtaken_by(None) == ""
