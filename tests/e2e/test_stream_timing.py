"""Streams and time: heartbeats, keepalives, the end of a token and of a right."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from support.live_run import TIME, Live, begin, fresh_name, received, refused
from support.server import Server, running
from support.waiting import PATIENCE, slowness
from support.watchers import (
    closing,
    sse,
    websocket,
)

SLOW = slowness()
LIFETIME = round(8 + 4 * SLOW)
"""Seconds of a token that expires: enough to open all sockets on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(
        tmp_path_factory.mktemp("stream_timing"), ws_heartbeat=0.3, ws_pong_wait=0.6 * SLOW, sse_keepalive=0.2
    ) as server:
        yield server


@pytest.fixture
async def quick(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


async def test_heartbeats_and_a_client_that_answers(quick: Live) -> None:
    async with websocket(quick.stream("?cursor=now"), quick.server.admin) as ws:
        beats = []
        while len(beats) < 6:
            message = json.loads(await ws.recv())
            assert set(message) == {"type", "timestamp", "cursor"}
            assert message["type"] == "heartbeat"
            assert TIME.fullmatch(message["timestamp"])
            beats.append(message)
            await ws.send('{"type":"pong"}')
        await quick.say("alive")
        assert json.loads(await ws.recv())["line"] == "alive"
    # A client that received only heartbeats resumes from the cursor of the last and misses nothing.
    async with websocket(quick.stream(f"?cursor={beats[-1]['cursor']}"), quick.server.admin) as ws:
        assert json.loads(await ws.recv())["line"] == "alive"
        beat = json.loads(await ws.recv())
    async with websocket(quick.stream(f"?cursor={beat['cursor']}"), quick.server.admin) as ws:
        assert json.loads(await ws.recv())["type"] == "heartbeat"
    async with websocket(quick.stream(), quick.server.admin) as ws:
        said = [json.loads(await ws.recv()) for _ in range(3)]
        assert set(said[-1]) == {"type", "timestamp"}, "a cursor is for those who ask with one"


@pytest.mark.parametrize("says", ["nothing", "anything but a pong", "pong, too early"])
async def test_a_silent_client_is_closed_with_4408(quick: Live, says: str) -> None:
    async with websocket(quick.stream("?cursor=now"), quick.server.admin) as ws:
        began = time.monotonic()
        if says == "anything but a pong":
            for _ in range(20):
                await ws.send('{"type":"ping"}')
        elif says != "nothing":
            await ws.send('{"type":"pong"}')  # before the first heartbeat: it answers none of them
        code, said = await closing(ws)
        assert code == 4408
        assert said[-1]["type"] == "error"
        assert {m["type"] for m in said[:-1]} == {"heartbeat"}
        assert 0.85 < time.monotonic() - began < 2 + 8 * slowness()


@pytest.mark.parametrize("path", ["/workflow-runs/{}/stream?cursor=now", "/events"])
async def test_the_keepalive_is_exactly_a_comment(quick: Live, path: str) -> None:
    async with sse(f"{quick.server.url}/api/v1{path.format(quick.run_id)}", quick.server.admin) as response:
        seen = b""
        async for chunk in response.aiter_raw():
            seen += chunk
            if seen.count(b"keepalive") == 3:
                break
    comments = seen.split(b"\n\n")
    assert [c for c in comments if c not in (b"", b":")] == [b":keepalive"] * 3


async def test_streams_end_within_5_s_of_their_token(quick: Live) -> None:
    """Expired, revoked, logged out: on all four surfaces; and the one that never came with a token."""
    server = quick.server

    async def ending(token: str, how: str, act: Any) -> None:
        run, base = quick.stream("?cursor=now"), f"{server.url}/api/v1"
        async with (
            websocket(run, token) as ws,
            websocket(f"{server.ws}/api/v1/ws", token) as channels,
            websocket(f"{server.ws}/api/v1/ws", token) as idle,
            sse(f"{base}/workflow-runs/{quick.run_id}/stream?cursor=now", token) as run_sse,
            sse(f"{base}/events", token) as journal,
        ):
            await channels.send(json.dumps({"channel": "channel_log", "params": quick.params}))
            await received(channels, 2)
            pongs = asyncio.create_task(_ponging(ws))
            await asyncio.to_thread(act)
            ended = time.monotonic()
            async with asyncio.timeout(PATIENCE):
                codes = [(await closing(s))[0] for s in (channels, idle)]
                for response in (run_sse, journal):
                    async for _ in response.aiter_raw():
                        pass
                code, said = await pongs
        assert (code, codes) == (4401, [4401, 4401]), how
        assert said["code"] == "unauthorized"
        assert time.monotonic() - ended < 5 + 0.5 * slowness(), how

    brief = server.ask("POST", "/tokens", json={"name": "brief", "expires_in": LIFETIME})["token"]
    expires = time.monotonic() + LIFETIME
    revoked = server.ask("POST", "/tokens", json={"name": "revoked"})
    session = server.login("admin")
    silent = asyncio.create_task(_silence(quick.stream()))
    await asyncio.gather(
        ending(brief, "expiry", lambda: time.sleep(max(0.0, expires - time.monotonic()))),
        ending(revoked["token"], "revocation", lambda: server.ask("DELETE", f"/tokens/{revoked['id']}")),
        ending(session, "logout", lambda: server.ask("POST", "/auth/logout", session)),
    )
    assert await silent == (4401, "unauthorized")


async def _ponging(ws: ClientConnection) -> tuple[int | None, dict[str, Any]]:
    message: dict[str, Any] = {}
    try:
        async for text in ws:
            message = json.loads(text)
            if message["type"] == "heartbeat":
                await ws.send('{"type":"pong"}')
    except ConnectionClosed:
        pass
    return ws.close_code, message


async def _silence(url: str) -> tuple[int, str]:
    began = time.monotonic()
    found = await refused(url)
    assert 9 < time.monotonic() - began < 10 + 5 * slowness()  # 10 s to say who one is
    return found


async def test_what_one_may_no_longer_see_stops_at_once(server: Server) -> None:
    name = fresh_name()
    token = server.user(name)
    project = server.project(name, [name])
    live = await begin(server, project)
    await live.say("before")
    channels = f"{server.ws}/api/v1/ws"
    subscribe = json.dumps({"channel": "channel_log", "params": live.params})
    journal = f"{server.url}/api/v1/events"
    async with (
        websocket(live.stream(), token) as ws,
        websocket(channels, token) as log,
        websocket(channels, token) as late,
        sse(live.stream().replace("ws:", "http:"), token) as run_sse,
        sse(f"{journal}?stream=run/{live.run_id}", token) as of_run,
        sse(journal, token) as of_all,
    ):
        await received(ws, 2)
        await log.send(subscribe)
        await received(log, 3)
        watching = [asyncio.create_task(_text(r)) for r in (run_sse, of_run, of_all)]
        over = "you may no longer see this step run"
        watching += [
            asyncio.create_task(_texts(s, until)) for s, until in ((ws, ""), (log, over), (late, ""))
        ]
        server.ask("DELETE", f"/projects/{project}/members/{name}")
        await late.send(subscribe)  # the socket was opened before, the subscription comes after
        await asyncio.sleep(0.1)  # so that a leaked subscription would be live
        await live.say("confidential")
        await live.end()
        for watched in watching:  # what does not end is asked for long enough to have shown it
            seen = await watched
            assert "confidential" not in seen
            assert "workflow_completed" not in seen
        assert over in await watching[4]
    async with sse(live.stream().replace("ws:", "http:"), token) as response:
        assert response.status_code == 404
    assert await refused(live.stream(), token) == (4404, "not_found")
    await live.agent.vanish()


async def test_a_subscription_is_refused_once_permission_is_revoked(server: Server) -> None:
    name = fresh_name()
    token = server.user(name)
    project = server.project(name, [name])
    live = await begin(server, project)
    async with websocket(f"{server.ws}/api/v1/ws", token) as ws:
        server.ask("DELETE", f"/projects/{project}/members/{name}")
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        (answer,) = await received(ws, 1)
        assert answer["type"] == "error"
    await live.agent.vanish()


async def _text(response: httpx.Response) -> str:
    seen = ""
    async for chunk in response.aiter_raw():
        seen += chunk.decode()
        if seen.count(":keepalive") >= 5:
            break
    return seen


async def _texts(ws: ClientConnection, until: str = "") -> str:
    """What comes until it ends, or until this has come, and within 2.5 s after that."""
    seen = ""
    try:
        async with asyncio.timeout(PATIENCE):
            while until not in seen:
                seen += str(await ws.recv())
        async with asyncio.timeout(2.5):
            async for text in ws:
                seen += str(text)
    except (TimeoutError, ConnectionClosed):
        pass
    return seen


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
