"""Rate limits with real numbers (StreamSpace page; decisions.md)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.bodies import UNKNOWN, enveloped_error, plain_error
from support.live_run import begin, refused
from support.server import Server, running
from support.waiting import PATIENCE
from support.watchers import websocket


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(
        tmp_path_factory.mktemp("strict"), ratelimit_login="3/minute", ratelimit_default="30/minute"
    ) as server:
        yield server


def test_rate_limits(strict: Server) -> None:
    token, url = strict.admin, f"{strict.url}/api/v1"
    limited = strict.call("GET", "/auth/me", token)
    left = int(limited.headers["x-ratelimit-remaining"])
    assert limited.headers["x-ratelimit-limit"] == "30"
    assert 0 <= int(limited.headers["x-ratelimit-reset"]) - time.time() <= 61
    nowhere = strict.call("GET", "/nowhere", token)  # all responses, errors too
    assert int(nowhere.headers["x-ratelimit-remaining"]) == left - 1
    for _ in range(left - 1):
        assert strict.call("GET", "/auth/me", token).status_code == 200
    for path in ("/auth/me", "/workflow-runs", "/events"):
        body = plain_error(strict.call("GET", path, token), 429, "RATE_LIMIT_EXCEEDED")
        assert body["error"] == "Rate limit exceeded"
        assert 0 < body["retry_after"] <= 60
        assert body["message"] == f"Too many requests. Please try again in {body['retry_after']} seconds."
    answer = strict.call("GET", "/pipelines", token)
    assert enveloped_error(answer, 429)["retry_after"] > 0
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-ratelimit-remaining"] == "0"
    # Counted per token: without one the address has its own; forwarding headers of strangers are not believed.
    for n in range(40):
        spoofed = {"X-Forwarded-For": f"10.0.0.{n}"}
        last = strict.http.get(f"{url}/auth/me", headers=spoofed).status_code
    assert last == 429
    for path in ("/healthz", "/readyz", "/metrics"):
        health = strict.http.get(strict.url + path)
        assert (health.status_code, "x-ratelimit-limit" in health.headers) == (200, False)


def test_logins_are_limited_by_address_and_name(strict: Server) -> None:
    codes = []
    for n in range(5):
        body = {"username": f"user-{n}", "password": "guess"}
        answer = strict.call("POST", "/auth/login", None, json=body)
        codes.append(answer.status_code)
        assert answer.headers["x-ratelimit-limit"] == "3"
    assert codes[-2:] == [429, 429]
    assert strict.call("POST", "/auth/login/", None, json={}).status_code in (404, 307, 429)


async def test_agents_and_open_streams_are_not_counted(tmp_path: Any) -> None:
    from support.fake_agent import registered

    with running(tmp_path, ratelimit_default="12/minute") as server:
        async with await registered(server, "busy") as agent:
            for _ in range(30):
                assert (await agent.call("agent.v1.AgentService/Heartbeat")).success
            for _ in range(15):
                answer = server.call("GET", f"/blobs/{UNKNOWN}", agent.token)
                assert (answer.status_code, "x-ratelimit-limit" in answer.headers) == (404, False)
            async with websocket(f"{server.ws}/api/v1/ws", server.admin) as ws:
                for _ in range(30):
                    await ws.send("{}")
                    assert json.loads(await asyncio.wait_for(ws.recv(), PATIENCE))["type"] == "error"
            assert server.call("GET", "/auth/me").status_code == 200


async def test_opening_a_socket_counts(tmp_path: Path) -> None:
    """Of a token, however it comes; without a good one, of the address: tokens cannot be guessed without limit."""
    with running(tmp_path, ratelimit_default="12/minute") as server:
        live = await begin(server)
        run, channels = live.stream(), f"{server.ws}/api/v1/ws"
        token = server.user("watcher", "admin")
        async with contextlib.AsyncExitStack() as stack:
            for number in range(12):
                url = (run, channels)[number % 2]
                ws = await stack.enter_async_context(websocket(url, token if number else None))
                if not number:
                    await ws.send(json.dumps({"type": "auth", "token": token}))
                    assert json.loads(await ws.recv())["type"] == "step_started"
            for url in (run, channels, f"{run}?token={token}"):
                assert await refused(url, None if "token=" in url else token) == (4429, "rate_limited")
            plain_error(server.call("GET", "/auth/me", token), 429, "RATE_LIMIT_EXCEEDED")
            await live.say("goes on")
            await ws.send("{}")  # what is open is not counted
            assert json.loads(await asyncio.wait_for(ws.recv(), PATIENCE))["type"] == "error"
        guesses = [await refused(url, f"guess-{n}") for n in range(8) for url in (run, channels)]
        assert guesses[0] == (4401, "unauthorized")
        assert guesses[-1] == (4429, "rate_limited")
        await live.agent.vanish()
