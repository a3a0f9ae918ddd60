"""Guards of open streams, and sockets, on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from sqlalchemy import Connection
from starlette.responses import StreamingResponse
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from identity_kit import PASSWORD, Stack, running, until
from pilothouse.access.errors import AuthError
from pilothouse.access.model import Principal, Role
from pilothouse.edge.web import Caller, allow, public, websocket_principal
from pilothouse.identity.authorization import TokenAuthorization
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.service import Identity
from support.waiting import PATIENCE


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path, body_limit=1000) as stack:
        yield stack


def add_routes(app: FastAPI, identity: Identity) -> None:
    async def follow(caller: Caller, identity: IdentityService) -> StreamingResponse:
        authorization = identity.authorize(caller)

        async def lines() -> AsyncIterator[bytes]:
            try:
                yield b"open\n"
                yield f"{await authorization.ended()}\n".encode()
            finally:
                authorization.close()

        return StreamingResponse(lines())

    async def socket(ws: WebSocket) -> None:
        principal = await websocket_principal(ws)
        await ws.accept()
        authorization = identity.authorize(principal)
        await ws.send_text(principal.name)
        await authorization.ended()
        authorization.close()
        await ws.close(4401)

    async def cut() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            raise RuntimeError("too late to say")

        return StreamingResponse(parts())

    async def swallow(body: dict[str, str]) -> None:
        raise AssertionError("the body was accepted")

    app.add_api_route("/api/v1/follow", follow, dependencies=[allow("events.read")])
    app.add_api_websocket_route("/api/v1/socket", socket)
    app.add_api_route("/api/v1/cut", cut, dependencies=[public()])
    app.add_api_route("/api/v1/swallow", swallow, methods=["POST"], dependencies=[public()])


@pytest.fixture
async def server(stack: Stack) -> AsyncIterator[str]:
    """``host:port`` of a real uvicorn with a stream and a socket on it."""
    add_routes(stack.app, stack.identity)
    config = uvicorn.Config(stack.app, port=0, lifespan="off", log_level="critical", proxy_headers=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"{host}:{port}"
    server.force_exit = server.should_exit = True
    await task


async def guarded(stack: Stack, token: str) -> tuple[Principal, TokenAuthorization]:
    principal = await stack.identity.authenticate(token)
    return principal, stack.identity.authorize(principal)


# -- authorizations ---------------------------------------------------------------------------------------------


async def test_logout_ends_a_guard_with_the_commit(stack: Stack) -> None:
    token = await stack.user("ann")
    principal, authorization = await guarded(stack, token)
    _, other = await guarded(stack, stack.admin)
    await stack.identity.logout(principal)
    assert authorization.reason == "revoked"
    assert await authorization.ended() == "revoked"
    assert not authorization.sees("fleet")
    assert other.reason is None
    assert other.sees("admin")


async def test_a_guard_ends_when_its_token_expires(stack: Stack) -> None:
    token = (await stack.call("POST", "/tokens", json={"name": "short", "expires_in": 60})).json()["token"]
    _, authorization = await guarded(stack, token)
    called = asyncio.Event()
    authorization.on_end(called.set)
    stack.clock.ahead += 61_000
    assert await asyncio.wait_for(authorization.ended(), PATIENCE) == "expired"
    assert called.is_set()


async def test_what_another_server_changes_shows_soon(stack: Stack) -> None:
    leaving, rising = await stack.user("ann"), await stack.user("bob")
    elsewhere = stack.another()
    authorizations = [
        elsewhere.authorize(await elsewhere.authenticate(t)) for t in (leaving, rising, stack.admin)
    ]
    await stack.identity.logout(await stack.identity.authenticate(leaving))
    await stack.call("PATCH", "/users/bob", json={"role": "admin"})
    assert authorizations[0].reason is None
    assert await asyncio.wait_for(authorizations[0].ended(), PATIENCE) == "revoked"
    await until(lambda: authorizations[1].sees("admin"))
    assert authorizations[2].reason is None
    elsewhere.close()


async def test_a_guard_of_a_token_revoked_before_ends_too(stack: Stack) -> None:
    principal = await stack.identity.authenticate(await stack.user("ann"))
    await stack.identity.logout(principal)
    authorization = stack.identity.authorize(principal)
    assert await asyncio.wait_for(authorization.ended(), PATIENCE) == "revoked"


async def test_role_and_membership_show_in_open_guards_at_once(stack: Stack) -> None:
    _, authorization = await guarded(stack, await stack.user("ann"))
    shop = (await stack.call("POST", "/projects", json={"name": "shop"})).json()["detail"]["projectId"]
    scope = f"project/{shop}"
    assert not authorization.sees(scope)
    await stack.call("PUT", f"/projects/{shop}/members/ann")
    assert authorization.sees(scope)
    await stack.call("DELETE", f"/projects/{shop}/members/ann")
    assert not authorization.sees(scope)
    await stack.call("PATCH", "/users/ann", json={"role": "operator"})
    assert authorization.sees(scope)
    assert authorization.principal.role is Role.OPERATOR
    await stack.call("DELETE", "/users/ann")
    assert authorization.reason == "revoked"


async def test_what_was_revoked_while_it_was_verified_is_not_believed(stack: Stack) -> None:
    token = await stack.user("ann")
    principal = await stack.identity.authenticate(token)
    elsewhere = stack.another()
    real = elsewhere._ask
    asked: list[object] = []

    def slow(conn: Connection, token: str, digest: str) -> object:
        known = real(conn, token, digest)
        if not asked:
            asked.append(known)
            leaving = asyncio.run_coroutine_threadsafe(elsewhere.logout(principal), loop)
            leaving.result(5)
        return known

    loop = asyncio.get_running_loop()
    elsewhere._ask = slow  # type: ignore[method-assign,assignment]  # the moment between reading and believing
    refused = await asyncio.gather(elsewhere.authenticate(token), return_exceptions=True)
    assert getattr(refused[0], "code", None) == "AUTH_TOKEN_INVALID"
    assert asked
    elsewhere.close()


async def test_an_agents_token_is_revoked_by_its_owner(stack: Stack) -> None:
    agent = Principal("agent", "a1", "builder", None, frozenset(), "agent/a1/1", None)
    known = {"agent-token": agent}
    stack.identity.add_authenticator(lambda conn, token: known.get(token))
    _, authorization = await guarded(stack, "agent-token")
    known.clear()
    assert (await stack.identity.authenticate("agent-token")).name == "builder"
    stack.identity.forget("agent/a1/1")
    assert authorization.reason == "revoked"
    with pytest.raises(AuthError) as refused:
        await stack.identity.authenticate("agent-token")
    assert refused.value.code == "AUTH_TOKEN_INVALID"


# -- a real server --------------------------------------------------------------------------------------


async def test_an_open_response_ends_at_logout(stack: Stack, server: str) -> None:
    token = await stack.user("ann")
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=f"http://{server}", headers=headers) as client,
        client.stream("GET", "/api/v1/follow") as stream,
    ):
        assert stream.headers["x-request-id"]
        lines = stream.aiter_lines()
        assert await anext(lines) == "open"
        assert (await client.post("/api/v1/auth/logout")).status_code == 200
        assert await asyncio.wait_for(anext(lines), PATIENCE) == "revoked"
        with pytest.raises(StopAsyncIteration):
            await anext(lines)


async def test_a_broken_answer_is_cut_off_and_a_large_body_not_awaited(stack: Stack, server: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{server}") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/api/v1/cut")
    host, _, port = server.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/swallow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n1000\r\n" + b"x" * 0x1000 + b"\r\n")
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"PAYLOAD_TOO_LARGE" in answer


async def greeting(socket: ClientConnection) -> str:
    text = await asyncio.wait_for(socket.recv(), PATIENCE)
    assert isinstance(text, str)
    return text


async def test_sockets_take_header_query_and_cookie(stack: Stack, server: str) -> None:
    url, token = f"ws://{server}/api/v1/socket", stack.admin
    async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        assert await greeting(socket) == "admin"
    async with connect(f"{url}?token={token}") as socket:
        assert await greeting(socket) == "admin"
    cookie = {"Cookie": f"pilot_token={token}"}
    async with connect(url, additional_headers=cookie, origin=Origin(f"http://{server}")) as socket:
        assert await greeting(socket) == "admin"


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({}, "", 401, "AUTH_TOKEN_MISSING"),
        ({}, "?token=nonsense", 401, "AUTH_TOKEN_INVALID"),
        ({"Cookie": "pilot_token={token}"}, "", 403, "ORIGIN_FORBIDDEN"),
        ({"Cookie": "pilot_token={token}", "Origin": "http://evil.example"}, "", 403, "ORIGIN_FORBIDDEN"),
    ],
)
async def test_sockets_are_refused_before_they_open(
    stack: Stack, server: str, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    sent = {name: value.format(token=stack.admin) for name, value in headers.items()}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{server}/api/v1/socket{query}", additional_headers=sent):
            raise AssertionError("the socket opened")
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["code"] == code


async def test_an_open_socket_ends_with_4401_when_its_user_is_deactivated(stack: Stack, server: str) -> None:
    token = await stack.user("ann")
    async with connect(f"ws://{server}/api/v1/socket?token={token}") as socket:
        assert await greeting(socket) == "ann"
        await stack.call("DELETE", "/users/ann")
        await asyncio.wait_for(socket.wait_closed(), PATIENCE)
        assert socket.close_code == 4401


async def test_a_session_of_the_console(server: str) -> None:
    origin = f"http://{server}"
    async with httpx.AsyncClient(base_url=origin, headers={"Origin": origin}) as browser:
        body = {"username": "admin", "password": PASSWORD}
        assert (await browser.post("/api/v1/auth/login", json=body)).status_code == 200
        assert (await browser.get("/api/v1/auth/me")).json()["username"] == "admin"
        assert (await browser.post("/api/v1/auth/logout")).status_code == 200
        assert (await browser.get("/api/v1/auth/me")).json()["code"] == "AUTH_TOKEN_MISSING"
