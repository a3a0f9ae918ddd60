"""gRPC stream clients that do not read: they cost a cursor, block no one, and receive everything in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.fake_agent import FakeAgent, events
from support.faults.watch import Memory
from support.live_run import begin, followers
from support.rpc_streams import streams
from support.server import Server, running
from support.waiting import eventually

SLOW = 20
EVENTS, SIZE = 200, 50_000
"""10 MB; a copy of what a reader has not read yet would be as much for each of them."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Nobody else uses it: what it has in memory, and who follows, is counted."""
    with running(tmp_path_factory.mktemp("slow_readers")) as server:
        yield server


async def push(agent: FakeAgent, step: str, first: int, count: int) -> None:
    """Numbered events of that size."""
    for start in range(first, first + count, 20):
        batch = [
            (f"e{n}", n, step, "load.test", {"n": n, "filler": "x" * SIZE}) for n in range(start, start + 20)
        ]
        assert (await agent.push_events(events(*batch))).last_accepted_seq == start + 19


def number(message: Any) -> int:
    return int(json.loads(message.metadata["payload"])["n"])


async def test_memory_stays_flat_and_all_of_them_get_everything(server: Server) -> None:
    live = await begin(server)
    request = pb.StreamEventsRequest(resource_ids=[live.step])
    async with streams(server) as first:
        call = await first.follow(request).opened()
        with Memory(server) as alone:  # the journal's window fills, once
            await push(live.agent, live.step, 1, EVENTS)
            assert [number(m) for m in await call.next(EVENTS)] == list(range(1, EVENTS + 1))
        call.cancel()
    await eventually(lambda: followers(server) == 0)
    async with streams(server) as slow, streams(server) as quick:
        calls = [await slow.follow(request).opened() for _ in range(SLOW)]
        good = await quick.follow(request).opened()
        with Memory(server) as memory:
            await push(live.agent, live.step, EVENTS + 1, EVENTS)
            expected = list(range(EVENTS + 1, 2 * EVENTS + 1))
            assert [number(m) for m in await good.next(EVENTS)] == expected  # nobody is held up
        print(f"grown {alone.growth:.0f} MiB alone, {memory.growth:.0f} MiB with {SLOW} who do not read")
        assert memory.growth < alone.growth + SLOW * EVENTS * SIZE / (1 << 20) / 8
        got = await asyncio.gather(*(call.next(EVENTS) for call in calls))
        assert [[number(m) for m in messages] for messages in got] == [expected] * SLOW
    await eventually(lambda: followers(server) == 0)
    await live.agent.vanish()
    assert server.failures() == []


async def test_one_who_does_not_read_loses_his_right_all_the_same(server: Server) -> None:
    """What is on its way when the token is revoked he may still get; then there is nothing but the end."""
    live = await begin(server)
    made = server.ask("POST", "/tokens", json={"name": "slow"})
    async with streams(server, made["token"]) as slow:
        call = await slow.follow(pb.StreamEventsRequest(resource_ids=[live.step])).opened()
        await push(live.agent, live.step, 1, EVENTS)
        assert server.call("DELETE", f"/tokens/{made['id']}").status_code == 204
        code, _ = await call.end()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert [number(m) for m in call.unread] == list(range(1, len(call.unread) + 1))
        assert len(call.unread) < EVENTS / 2
    await live.agent.vanish()


async def test_a_stalled_client_does_not_block_shutdown(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        live = await begin(server)
        async with streams(server) as slow:
            call = await slow.follow(pb.StreamEventsRequest(resource_ids=[live.step])).opened()
            await push(live.agent, live.step, 1, EVENTS)
            await asyncio.to_thread(server.stop)  # exits with 0 within 10 s
            await call.end()
            server.restart()
            place = call.unread[-1]
            back = slow.follow(pb.StreamEventsRequest(resource_ids=[live.step]), place.cursor)
            rest = await back.next(EVENTS - number(place))
            assert [number(m) for m in (*call.unread, *rest)] == list(range(1, EVENTS + 1))
        await live.agent.vanish()
        assert server.failures() == []


async def test_one_who_leaves_is_forgotten(server: Server) -> None:
    live = await begin(server)
    async with streams(server) as client:
        requests = [
            pb.StreamEventsRequest(),
            pb.StreamAgentStatusRequest(),
            pb.StreamStepRunStatusRequest(pipeline_run_id=live.run_id),
        ]
        calls = [await client.follow(request).opened() for request in requests]
        assert followers(server) == 3
        calls[0].cancel()
        await eventually(lambda: followers(server) == 2)
    await eventually(lambda: followers(server) == 0)
    await live.agent.vanish()
    assert server.failures() == []
