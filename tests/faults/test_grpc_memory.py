"""Messages of callers that are not known: how much of them the server keeps in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_http2 import RawHttp2
from support.server import Server, running
from support.waiting import PATIENCE

MIB = 1 << 20
LARGE = 16 * MIB - 100
CONNECTIONS, CALLS = 10, 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("memory")) as server:
        yield server


def memory(server: Server) -> int:
    """The resident memory of the server in MiB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10


@pytest.mark.parametrize(
    ("method", "sent", "most"),
    [
        ("agent.v1.AgentService/Register", LARGE, 320),
        ("agent.v1.AgentService/Register", LARGE - 1, 320),
        ("agent.v1.AgentService/ReportStepRunStatus", LARGE - 1, 60),
        ("gateway.v1.GatewayService/PushLogs", LARGE - 1, 60),
        ("stream.v1.StreamService/StreamEvents", LARGE - 1, 60),
        ("no.such/Method", LARGE - 1, 60),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", LARGE - 1, 320),
    ],
)  # fmt: skip
async def test_a_hundred_large_messages(server: Server, method: str, sent: int, most: int) -> None:
    """They would be 1.6 GiB. One byte is missing of most, so that they stay unfinished for as long as allowed."""
    before = peak = memory(server)
    connections = [await RawHttp2.open(server.grpc) for _ in range(CONNECTIONS)]
    calls = [
        asyncio.create_task(connection.message(connection.call(method), LARGE, sent))
        for connection in connections
        for _ in range(CALLS)
    ]
    try:
        async with asyncio.timeout(PATIENCE):
            pending = set(calls)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=0.05)
                peak = max(peak, memory(server))
        assert peak - before <= most, f"{peak - before} MiB more"
    finally:
        for connection in connections:
            await connection.close()
    assert server.failures() == []
