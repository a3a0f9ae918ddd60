"""Streams over TLS: the socket that the feed writes to is an encrypted one, and nothing else is different."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from support.certificates import self_signed
from support.fake_agent import FakeAgent
from support.live_run import Live, numbered
from support.server import Server, running, spec_for
from support.watchers import END, closing, websocket

LINE = re.compile(rb'"line":"line (\d+)')
WIDE = "x" * 200


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a certificate and its key."""
    key, certificate = self_signed()
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.fixture
def server(tmp_path: Path, authority: tuple[Path, Path]) -> Iterator[Server]:
    with running(tmp_path, tls_cert=str(authority[0]), tls_key=str(authority[1])) as server:
        assert server.url.startswith("https://")
        yield server


@pytest.fixture
def trusting(authority: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority[0]))


@pytest.fixture
async def live(server: Server, authority: tuple[Path, Path]) -> AsyncIterator[Live]:
    """A run whose agent speaks gRPC over TLS."""
    async with FakeAgent(server.grpc, "encrypted") as agent:
        credentials = grpc.ssl_channel_credentials(authority[0].read_bytes())
        agent.channel = grpc.aio.secure_channel(server.grpc, credentials)
        await agent.register(server.registration_token())
        await agent.connect()
        pipeline_id = server.pipeline("encrypted", spec_for("encrypted"))
        run_id = server.trigger(pipeline_id)
        task = await agent.task()
        await agent.ack(task)
        yield Live(server, agent, pipeline_id, run_id, task)


async def _open(live: Live, trusting: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The run stream as SSE on a bare socket."""
    host, port = live.server.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
    path = f"/api/v1/workflow-runs/{live.run_id}/stream"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.server.admin}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return reader, writer


async def test_a_normal_and_a_stalled_reader(live: Live, trusting: ssl.SSLContext) -> None:
    count = 20_000
    prompt, late = await _open(live, trusting), await _open(live, trusting)
    reading = asyncio.create_task(prompt[0].read())
    url = f"{live.server.ws}/api/v1/workflow-runs/{live.run_id}/stream?cursor=start"
    async with websocket(url, live.server.admin, ssl=trusting) as ws:
        watching = asyncio.create_task(closing(ws))
        for start in range(0, count, 1000):
            await live.say(*(f"{line} {WIDE}" for line in numbered(start, start + 1000)))
        await live.end()
        expected = list(range(count))
        assert [int(n) for n in LINE.findall(await reading)] == expected
        code, said = await watching
    assert code == 1000
    lines = [message["line"] for message in said if message["type"] == "step_log"]
    assert lines == [f"{line} {WIDE}" for line in numbered(0, count)] + [END]
    everything = await late[0].read()
    assert [int(n) for n in LINE.findall(everything)] == expected
    assert everything.endswith(b"0\r\n\r\n"), "the response is whole"
    for _, writer in (prompt, late):
        writer.close()


async def test_it_is_told_to_reconnect_at_a_stop(live: Live, trusting: ssl.SSLContext) -> None:
    url = f"{live.server.ws}/api/v1/workflow-runs/{live.run_id}/stream"
    async with websocket(url, live.server.admin, ssl=trusting) as ws:
        assert json.loads(await ws.recv())
        stopping = asyncio.create_task(asyncio.to_thread(live.server.stop))
        code, _ = await closing(ws)
        assert code == 1001
        await stopping
