"""Streams that cannot be, and what clients send that they should not."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from support.live_run import UNKNOWN, Live, begin, followers, received, refused
from support.server import Server
from support.waiting import eventually
from support.watchers import (
    closing,
    sse,
    websocket,
)


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


async def test_refusals_have_a_reason_and_close_with_their_code(live: Live) -> None:
    url, admin = live.stream(), live.server.admin
    assert await refused(url, "nonsense") == (4401, "unauthorized")
    assert await refused(live.stream("?token=nonsense")) == (4401, "unauthorized")
    assert await refused(url.replace(live.run_id, UNKNOWN), admin) == (4404, "not_found")
    assert await refused(url.replace(live.run_id, "%00"), admin) == (4404, "not_found")
    assert await refused(live.stream("?cursor=nonsense"), admin) == (4400, "bad_request")
    assert await refused(live.stream(f"?cursor={'9' * 5000}"), admin) == (4400, "bad_request")
    assert await refused(live.stream("?cursor=00000000.1.0"), admin) == (4410, "cursor_expired")
    async with websocket(live.stream("?cursor=start"), admin) as ws:
        epoch = json.loads(await ws.recv())["cursor"].split(".")[0]
    ahead = live.stream(f"?cursor={epoch}.999999999.0")
    assert await refused(ahead, admin) == (4410, "cursor_expired")
    cookie = {"Cookie": f"pilot_token={admin}"}
    assert await refused(url, headers=cookie, origin="https://evil.example") == (4403, "forbidden")
    assert await refused(url, headers=cookie) == (4403, "forbidden")
    channels = f"{live.server.ws}/api/v1/ws"
    assert await refused(channels) == (4401, "unauthorized")
    assert await refused(channels, "nonsense") == (4401, "unauthorized")
    assert await refused(channels, headers=cookie, origin="null") == (4403, "forbidden")


async def test_cursors_on_a_channel_that_cannot_be_honoured(live: Live) -> None:
    for cursor, code in (("nonsense", 4400), ("00000000.1.0", 4410), (7, 4400), ({"a": 1}, 4400)):
        async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
            params = {**live.params, "cursor": cursor}
            await ws.send(json.dumps({"channel": "channel_log", "params": params}))
            closed, said = await closing(ws)
            assert closed == code, cursor
            assert [m["type"] for m in said] == ["error"]
            assert said[0]["code"] == ("cursor_expired" if code == 4410 else "bad_request")


async def test_sse_refuses_before_the_stream_starts(live: Live) -> None:
    base, admin = f"{live.server.url}/api/v1", live.server.admin
    run, unknown = f"{base}/workflow-runs/{live.run_id}/stream", f"{base}/workflow-runs/{UNKNOWN}/stream"
    for url, token, status, code in [
        (run, None, 401, "AUTH_TOKEN_MISSING"),
        (run, "nonsense", 401, "AUTH_TOKEN_INVALID"),
        (f"{run}?token={admin}", None, 401, "AUTH_TOKEN_MISSING"),  # in a URL on WebSockets only
        (unknown, admin, 404, "RUN_NOT_FOUND"),
        (f"{run}?cursor=nonsense", admin, 400, "CURSOR_INVALID"),
        (f"{run}?cursor=00000000.1.0", admin, 410, "CURSOR_EXPIRED"),
        (f"{base}/events?cursor=00000000.1.0", admin, 410, "CURSOR_EXPIRED"),
        (f"{base}/events?stream={quote('run/' + live.run_id)}&cursor=-1", admin, 400, "CURSOR_INVALID"),
        (f"{base}/events", None, 401, "AUTH_TOKEN_MISSING"),
        (f"{base}/events?stream=run/{UNKNOWN}", admin, 404, "RUN_NOT_FOUND"),
        (f"{base}/events?stream=project/{UNKNOWN}", admin, 404, "PROJECT_NOT_FOUND"),
        (f"{base}/events?stream=agent/nobody", admin, 404, "AGENT_NOT_FOUND"),
        (f"{base}/events?stream=bogus", admin, 400, "INVALID_PARAMETER"),
        (f"{base}/events?stream=bogus/{UNKNOWN}", admin, 400, "INVALID_PARAMETER"),
        (f"{base}/events?stream=run/", admin, 400, "INVALID_PARAMETER"),
    ]:
        async with sse(url, token) as response:
            await response.aread()
            assert (response.status_code, response.json()["code"]) == (status, code), url


async def test_every_way_to_bring_a_token(live: Live) -> None:
    admin = live.server.admin
    auth = json.dumps({"type": "auth", "token": admin})
    origin = live.server.url
    ways: list[tuple[str, dict[str, Any], list[Any]]] = [
        ("", {"token": admin}, []),
        (f"?token={admin}", {}, []),
        ("", {"headers": {"Cookie": f"pilot_token={admin}"}, "origin": origin}, []),
        ("", {}, [auth]),
        ("", {}, [[auth[:9], auth[9:20], auth[20:]]]),  # in fragments
        ("", {}, [auth, '{"type":"pong"}', "and garbage"]),
    ]
    for query, how, first in ways:
        async with websocket(live.stream(query), **how) as ws:
            for message in first:
                await ws.send(message)
            assert json.loads(await ws.recv())["type"] == "step_started"
    for bad in ('{"type":"auth"}', '{"type":"auth","token":7}', '{"type":"pong"}', "garbage", b"\xff",
                '{"type":"auth","token":"nonsense"}', "[1]", "null"):  # fmt: skip
        assert await refused(live.stream(), first=bad) == (4401, "unauthorized"), bad
    for token in (admin, live.server.admin):
        assert token not in live.server.log()


async def test_what_a_client_may_send_to_a_run_stream(live: Live) -> None:
    async with websocket(live.stream(), live.server.admin) as ws:
        for message in ("garbage", "[" * 100_000, b"\x00\xff", "", b"", '{"type":"pong","x":' + "1" * 9999 + "}",
                        "null", "7", '{"type":"auth","token":"x"}'):  # fmt: skip
            await ws.send(message)
        await (await ws.ping())
        await live.say("still here")
        assert [m["type"] for m in await received(ws, 2)] == ["step_started", "step_log"]


@pytest.mark.parametrize("where", ["run", "run-unauthorized", "channels"])
async def test_a_message_that_is_too_big_closes_with_1009(live: Live, where: str) -> None:
    url = f"{live.server.ws}/api/v1/ws" if where == "channels" else live.stream()
    token = None if where == "run-unauthorized" else live.server.admin
    async with websocket(url, token) as ws:

        async def fragments() -> AsyncIterator[str]:
            yield "x" * 1_000_000  # a message may have 1 MiB
            yield "x" * 48_576
            yield "x"

        with pytest.raises(ConnectionClosed):
            await ws.send(fragments())
            while True:
                await ws.recv()
        assert ws.close_code == 1009
    async with websocket(url, token) as ws:
        with pytest.raises(ConnectionClosed):
            await ws.send("x" * (4 << 20))
            while True:
                await ws.recv()
        # Data sent after the server's close may reset the connection before its message is read.
        assert ws.close_code in (1009, 1006)
    assert live.server.alive


async def test_text_that_is_no_text(live: Live) -> None:
    for url in (live.stream(), f"{live.server.ws}/api/v1/ws"):
        async with websocket(url, live.server.admin) as ws:
            await ws.send(b"\xff\xfe", text=True)
            code, _ = await closing(ws)
            assert code == 1007
    assert live.server.alive


async def test_clients_that_vanish_at_once(live: Live) -> None:
    """Disconnected between handshake and first message: nothing is left open or logged as an error."""
    before, alarms = followers(live.server), live.server.failures()
    path = f"/api/v1/workflow-runs/{live.run_id}/stream"
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    for more in [upgrade, ""] * 20:
        with socket.create_connection(("127.0.0.1", live.server.settings["port"])) as sock:
            head = (
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.server.admin}\r\n{more}\r\n"
            )
            sock.sendall(head.encode())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await live.say("somebody?")
    await eventually(lambda: followers(live.server) <= before)
    assert live.server.alive
    assert live.server.failures() == alarms


async def test_a_client_that_just_vanishes_leaves_nothing_behind(live: Live) -> None:
    before = followers(live.server)
    sockets = []
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        await received(ws, 2)
        for _ in range(5):
            sock = socket.create_connection(("127.0.0.1", live.server.settings["port"]))
            head = f"GET /api/v1/workflow-runs/{live.run_id}/stream HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Authorization: Bearer {live.server.admin}\r\n\r\n".encode())
            sockets.append(sock)
        await eventually(lambda: followers(live.server) >= before + 6)
        for sock in sockets:
            sock.close()
        ws.transport.abort()
    await live.say("somebody?")
    await eventually(lambda: followers(live.server) <= before)


def test_an_upgrade_to_nowhere(server: Server) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    answer = httpx.get(f"{server.url}/api/v1/nowhere", headers=headers)
    assert answer.status_code in (403, 404)
    assert server.alive


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
