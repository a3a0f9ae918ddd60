"""Every case of the Autobahn test suite against every kind of WebSocket that the server has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from support.conformance.echo import EchoServer, echoing
from support.conformance.judge import Endpoint, echo_faults, endpoint_faults
from support.live_run import begin, followers, numbered
from support.server import running
from support.waiting import eventually
from support.watchers import lines_of, replay, websocket


@pytest.fixture(scope="module")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    with echoing(tmp_path_factory.mktemp("echo")) as server:
        yield server


async def test_an_echo_by_the_suites_own_verdict(echo_server: EchoServer) -> None:
    assert await echo_faults(f"{echo_server.ws}/echo") == {}
    assert echo_server.alive
    assert echo_server.failures() == []


async def test_the_real_endpoints(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All cases against both at once. A heartbeat is what ends a case that would wait for its echo for minutes."""
    with running(tmp_path_factory.mktemp("endpoints"), ws_heartbeat=3) as server:
        live = await begin(server)
        channels = Endpoint(f"{server.ws}/api/v1/ws?token={server.admin}", answer="error")
        stream = Endpoint(live.stream(f"?cursor=now&token={server.admin}"), unasked="heartbeat")
        for found in await asyncio.gather(endpoint_faults(channels), endpoint_faults(stream)):
            assert found == {}
        # Nothing is left of all that, and the server still does its work.
        await eventually(lambda: followers(server) == 0)
        await live.say(*numbered(0, 3))
        await live.end()
        assert lines_of(await replay(live.surfaces()["run-ws"]))[:3] == numbered(0, 3)
        async with websocket(f"{server.ws}/api/v1/ws", server.admin) as ws:
            await ws.send("{}")
            assert json.loads(await ws.recv())["type"] == "error"
        assert server.failures() == []
        await live.agent.vanish()
        server.stop()
