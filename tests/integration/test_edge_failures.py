"""Refused calls count, whoever makes them and on whatever path; logins by cookie have a limit of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI, WebSocket
from httpx import AsyncClient
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from identity_kit import PASSWORD, Stack, running
from pilothouse.access.model import Principal, Role
from pilothouse.edge.limits import RateLimitSettings
from pilothouse.edge.web import COOKIE, OptionalCaller, allow, public, websocket_principal

AGENT = Principal("agent", "a1", "builder", None, frozenset(), "agent/a1", None)
LIMITS = RateLimitSettings(login="off", sessions="off", default="5/minute", console="9/minute")


def add_routes(app: FastAPI) -> None:
    async def show(caller: OptionalCaller) -> dict[str, str | None]:
        return {"caller": None if caller is None else caller.name}

    app.add_api_route("/api/v1/show", show, dependencies=[public()])
    app.add_api_route("/api/v1/runs", show, dependencies=[allow("run.read")])
    app.add_api_route("/page", show, dependencies=[public()])
    app.add_api_route("/api/clusters", show, dependencies=[allow("cluster.read")])
    app.add_api_route("/outside", show, dependencies=[allow("cluster.read")])

    @app.websocket("/agent/ws")
    async def agent(ws: WebSocket) -> None:
        await websocket_principal(ws)
        await ws.accept()
        await ws.close(1000)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path, LIMITS, trusted_proxies=["10.0.0.0/8"]) as stack:
        add_routes(stack.app)
        stack.identity.add_authenticator(lambda conn, token: AGENT if token == "agent-token" else None)
        yield stack


async def statuses(http: AsyncClient, path: str, times: int, **headers: str) -> list[int]:
    return [(await http.get(path, headers=headers)).status_code for _ in range(times)]


REFUSED = [
    ("/api/v1/runs", {}, 401),
    ("/api/v1/runs", {"Authorization": "Bearer guess"}, 401),
    ("/api/v1/nowhere", {}, 404),
    ("/api/clusters", {}, 401),
    ("/outside", {}, 401),
    ("/outside", {"Authorization": "Bearer guess"}, 401),
    ("/outside", {"Authorization": "Bearer agent-token"}, 403),
    ("/api/clusters", {"Authorization": "Bearer agent-token"}, 403),
    ("/nowhere", {}, 404),
    ("/", {}, 404),
    ("/healthz/nowhere", {}, 404),
]


@pytest.mark.parametrize(("path", "headers", "status"), REFUSED)
async def test_refused_calls_count(stack: Stack, path: str, headers: dict[str, str], status: int) -> None:
    assert await statuses(stack.http, path, 7, **headers) == [status] * 5 + [429] * 2
    answer = await stack.http.get(path, headers=headers)
    assert answer.json()["code"] == "RATE_LIMIT_EXCEEDED"
    assert int(answer.headers["retry-after"]) > 0
    assert "x-request-id" in answer.headers
    async with stack.client("192.0.2.99") as elsewhere:
        theirs = 429 if headers.get("Authorization") == "Bearer agent-token" else status
        assert (await elsewhere.get(path, headers=headers)).status_code == theirs


async def test_surfaces_share_one_count_of_failures(stack: Stack) -> None:
    paths = ["/outside", "/nowhere", "/api/v1/runs", "/api/v1/nowhere", "/api/clusters", "/outside"]
    got = [(await stack.http.get(path)).status_code for path in paths]
    assert got == [401, 404, 401, 404, 401, 429]


async def test_what_succeeds_outside_the_api_and_what_agents_do_is_not_counted(stack: Stack) -> None:
    agent = {"Authorization": "Bearer agent-token"}
    assert await statuses(stack.http, "/page", 8) == [200] * 8
    assert await statuses(stack.http, "/api/v1/show", 8, **agent) == [200] * 8
    assert await statuses(stack.http, "/api/v1/nothing/gone", 8, **agent) == [404] * 8
    await statuses(stack.http, "/outside", 8)  # the failures of others at that address are not the agent's
    assert await statuses(stack.http, "/api/v1/show", 2, **agent) == [200] * 2


async def test_a_valid_token_works_where_others_fail(stack: Stack) -> None:
    ann = await stack.user("ann", Role.VIEWER)
    await statuses(stack.http, "/api/v1/runs", 8, Authorization="Bearer guess")
    assert (await stack.call("GET", "/runs", ann)).status_code == 200


async def test_logins_by_cookie_have_their_own_limit(stack: Stack) -> None:
    token = (await stack.identity.login("admin", PASSWORD)).token
    by_cookie = [
        await stack.http.get("/api/v1/show", headers={"Cookie": f"{COOKIE}={token}"}) for _ in range(10)
    ]
    assert [answer.status_code for answer in by_cookie] == [200] * 9 + [429]
    assert by_cookie[0].headers["x-ratelimit-limit"] == "9"
    by_header = [await stack.call("GET", "/show", token) for _ in range(6)]
    assert [answer.status_code for answer in by_header] == [200] * 5 + [429]
    assert by_header[0].headers["x-ratelimit-limit"] == "5"
    wrong = [await stack.http.get("/api/v1/show", headers={"Cookie": f"{COOKIE}=guess"}) for _ in range(6)]
    assert [answer.status_code for answer in wrong] == [401] * 5 + [429]


@pytest.mark.parametrize("path", ["/agent/ws", "/agent/ws?token=guess", "/nowhere"])
async def test_refused_handshakes_count(stack: Stack, path: str) -> None:
    codes = []
    with TestClient(stack.app) as client:
        for _ in range(7):
            try:
                with client.websocket_connect(path):
                    raise AssertionError("opened")
            except WebSocketDisconnect as refused:  # a subclass has the HTTP answer
                codes.append(refused.status_code)  # type: ignore[attr-defined]
    assert codes == [404 if path == "/nowhere" else 401] * 5 + [429] * 2
