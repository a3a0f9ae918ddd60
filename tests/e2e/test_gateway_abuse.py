"""Invalid input to the gRPC port and its consequences."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from support.agent_work import Code, Work, begin, refusal
from support.server import Server
from support.waiting import PATIENCE


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


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
