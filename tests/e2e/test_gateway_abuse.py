"""Invalid input to the gRPC port and its consequences."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import zstandard

from support.agent_work import ACCEPTED, Code, Work, begin, refusal
from support.fake_agent import GZIP, NONE, ZSTD, batch, events
from support.server import Server
from support.waiting import PATIENCE, slowness


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def work(server: Server) -> AsyncIterator[Work]:
    work = await begin(server)
    yield work
    await work.agent.vanish()


async def test_oversized_messages_are_refused_and_the_server_lives(server: Server, work: Work) -> None:
    calling = work.push(1, b"x" * (20 << 20))
    assert await refusal(calling) is Code.RESOURCE_EXHAUSTED
    assert server.alive
    await work.agent.lines(work.step, ["after"])
    assert work.logged() == ["after"]


async def test_garbage_bytes_on_both_ports(server: Server, work: Work) -> None:
    garbage = [
        b"\x00" * 4096,
        bytes(range(256)) * 64,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # a TLS greeting
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"",
    ]
    ports = [int(server.settings[name]) for name in ("port", "grpc_port")]
    for port in ports:
        for raw in garbage:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
                try:
                    sock.sendall(raw)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                except OSError:  # it was cut off, as expected
                    continue
    assert server.alive
    await work.agent.lines(work.step, ["unmoved"])
    assert work.logged() == ["unmoved"]


async def test_garbage_protobuf_is_refused(server: Server, work: Work) -> None:
    for method in ("agent.v1.AgentService/Heartbeat", "agent.v1.AgentService/Register"):
        channel = work.agent.channel
        assert channel is not None
        raw = channel.unary_unary(f"/{method}")
        assert await refusal(raw(b"\xff" * 100, metadata=work.agent.metadata)) is not Code.OK
    assert server.alive


_FULL = 8 << 20
_BOMBS = {
    "empty frames": (zstandard.ZstdCompressor().compress(b""), ZSTD, "compressed frames"),
    "empty members": (gzip.compress(b""), GZIP, "compressed frames"),
    "newlines": (zstandard.ZstdCompressor(level=19).compress(b"\n" * _FULL), ZSTD, "20000 lines"),
    "zeros": (gzip.compress(bytes(_FULL * 8)), GZIP, "more than 8388608 bytes"),
    "newlines in plain text": (b"\n" * _FULL, NONE, "20000 lines"),
}


@pytest.mark.parametrize("bomb", _BOMBS)
async def test_bombs_are_refused_while_others_are_served(server: Server, work: Work, bomb: str) -> None:
    """Eight megabytes of empty frames held the server for 5.5 minutes."""
    data, how, reason = _BOMBS[bomb]
    data = data * (_FULL // len(data)) if "empty" in bomb else data
    pushing = asyncio.create_task(
        work.agent.push(*(batch(work.step, seq, data, compression=how, raw_size=0) for seq in (1, 2, 3)))
    )
    longest, busy = 0.0, asyncio.get_running_loop()
    async with httpx.AsyncClient() as client:
        while not pushing.done():
            began = busy.time()
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
            longest = max(longest, busy.time() - began)
            await asyncio.sleep(0.01)
    ack = await pushing
    assert list(ack.rejected_seqs) == [1, 2, 3]
    assert reason in ack.message
    assert longest < 0.3 * slowness(), "seconds, for somebody else"
    work.agent.seq = 3
    await work.agent.lines(work.step, ["after"])
    assert work.logged() == ["after"]


async def test_events_out_of_bounds_are_refused(server: Server, work: Work) -> None:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    bad: list[dict[str, Any]] = [{"x": [0] * 6000}, {"x": "y" * (5 << 20)}, {"x": deep}, {"x": {}}]
    named = [("e1", "t"), ("e2", "t"), ("e3", "t"), ("e" * 300, "t"), ("e5", "t" * 300)]
    told = [
        events((id, seq, work.step, f"arcentra.step.{type}", payload))
        for seq, ((id, type), payload) in enumerate(zip(named, [*bad, {"x": 1}], strict=True), 1)
    ]
    ack = await work.agent.push_events(*told)
    assert set(ack.rejected_seqs) >= {1, 2, 4, 5}
    assert (
        await work.agent.push_events(events(("f", 6, work.step, "arcentra.step.x", {})))
    ).status == ACCEPTED


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
