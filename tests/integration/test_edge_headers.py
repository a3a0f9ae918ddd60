"""Headers: those that must be given once, those of proxies, and those of every answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from identity_kit import OFF, PASSWORD, Stack, running
from pilothouse.edge.headers import SINGLE
from pilothouse.edge.limits import RateLimitSettings
from pilothouse.edge.web import COOKIE, Caller, allow, public

EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def add_routes(app: FastAPI) -> None:
    async def address(caller: Caller) -> dict[str, str]:
        return {"address": caller.address}

    async def page() -> Response:
        return HTMLResponse("<!doctype html><title>page</title>")

    async def own() -> Response:
        headers = {"Cache-Control": "max-age=60", "X-Frame-Options": "SAMEORIGIN"}
        return Response("x", headers=headers, media_type="text/plain")

    app.add_api_route("/api/v1/address", address, dependencies=[allow("run.read")])
    app.add_api_route("/api/v1/address", address, methods=["POST"], dependencies=[allow("run.read")])
    app.add_api_route("/page", page, dependencies=[public()])
    app.add_api_route("/api/v1/page", page, dependencies=[public()])
    app.add_api_route("/api/v1/own", own, dependencies=[public()])


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path, OFF, trusted_proxies=["10.0.0.0/8"]) as stack:
        add_routes(stack.app)
        yield stack


# -- headers given twice --------------------------------------------------------------------------------


async def test_a_header_that_must_be_given_once_is_refused_twice(stack: Stack) -> None:
    for name in sorted(name.decode() for name in SINGLE):
        for path in ("/api/v1/address", "/healthz", "/nowhere"):
            headers = [("Host", "pilot.test"), (name, "1"), (name.title(), "1")]
            answer = await stack.http.request("GET", path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "HEADER_REPEATED"), (name, path)
            assert answer.json()["details"] == {"field": name}
            assert answer.headers["connection"] == "close"


async def test_two_equal_credentials_are_refused_too(stack: Stack) -> None:
    bearer = ("Authorization", f"Bearer {stack.admin}")
    assert (await stack.http.get("/api/v1/address", headers=[bearer])).status_code == 200
    assert (await stack.http.get("/api/v1/address", headers=[bearer, bearer])).status_code == 400
    twice = {"Cookie": f"{COOKIE}={stack.admin}; theme=dark; {COOKIE}=other"}
    answer = await stack.http.get("/api/v1/address", headers=twice)
    assert (answer.status_code, answer.json()["code"]) == (400, "HEADER_REPEATED")
    similar = {"Cookie": f"{COOKIE}={stack.admin}; not_{COOKIE}=x"}
    assert (await stack.http.get("/api/v1/address", headers=similar)).status_code == 200


# -- proxies --------------------------------------------------------------------------------------------


LINES = [
    ("10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
    ("10.0.0.1", ["1.1.1.1", "203.0.113.1"], "203.0.113.1"),  # the client's line, then the proxy's
    ("10.0.0.1", ["1.1.1.1, 2.2.2.2", "203.0.113.1"], "203.0.113.1"),
    ("10.0.0.1", ["203.0.113.1", "10.0.0.2"], "203.0.113.1"),  # two proxies, a line each
    ("10.0.0.1", ["1.1.1.1", "203.0.113.1, 10.0.0.2"], "203.0.113.1"),
    ("10.0.0.1", ["203.0.113.1", ""], "203.0.113.1"),
    ("10.0.0.1", ["", "203.0.113.1"], "203.0.113.1"),
    ("10.0.0.1", ["203.0.113.1", "not an address"], "10.0.0.1"),
    ("192.0.2.1", ["1.1.1.1", "203.0.113.1"], "192.0.2.1"),  # a stranger's lines are not believed
]


async def test_all_lines_of_forwarded_for_count(stack: Stack) -> None:
    for peer, lines, address in LINES:
        async with stack.client(peer) as client:
            headers = [("Authorization", f"Bearer {stack.admin}")]
            headers += [("X-Forwarded-For", line) for line in lines]
            answer = await client.get("/api/v1/address", headers=headers)
            assert answer.json() == {"address": address}, lines


async def test_a_second_line_neither_evades_the_login_limit_nor_forges_the_trail(tmp_path: Path) -> None:
    limits = RateLimitSettings(login="3/minute", default="off")
    async with running(tmp_path, limits, trusted_proxies=["10.0.0.0/8"]) as stack:
        codes = []
        async with stack.client("10.0.0.1") as proxy:
            for n in range(6):
                body = {"username": f"name-{n}", "password": "guess"}
                lines = [("X-Forwarded-For", f"1.1.1.{n}"), ("X-Forwarded-For", "203.0.113.1")]
                codes.append((await proxy.post("/api/v1/auth/login", json=body, headers=lines)).status_code)
        assert codes == [401] * 3 + [429] * 3
        trail = (await stack.call("GET", "/audit?action=auth.login_failed")).json()["entries"]
        assert {entry["address"] for entry in trail} == {"203.0.113.1"}


# -- headers of answers ---------------------------------------------------------------------------------


ANSWERS = [
    ("GET", "/api/v1/address", 200),
    ("GET", "/api/v1/nowhere", 404),
    ("DELETE", "/api/v1/address", 405),
    ("GET", "/nowhere", 404),
    ("GET", "/openapi.json", 200),
    ("HEAD", "/nowhere", 404),
    ("GET", "/page", 200),
    ("GET", "/api/v1/page", 200),
]


async def test_headers_of_every_answer(stack: Stack) -> None:
    for method, path, status in ANSWERS:
        answer = await stack.http.request(method, path, headers={"Authorization": f"Bearer {stack.admin}"})
        assert answer.status_code == status
        assert {name: answer.headers.get(name) for name in EVERYWHERE} == EVERYWHERE
        assert "x-request-id" in answer.headers
        assert (answer.headers.get("cache-control") == "no-store") is path.startswith("/api/")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert "'unsafe-eval'" not in policy
        assert ("script-src 'self'" in policy) is (path == "/page")
        assert ("sandbox" in policy) is (path != "/page")


async def test_refusals_of_the_gate_carry_them_too(stack: Stack) -> None:
    for answer in (
        await stack.http.get("/api/v1/address", headers=[("Origin", "a"), ("Origin", "b")]),
        await stack.call("POST", "/address", content=b"x" * (3 << 20)),
    ):
        assert answer.status_code >= 400
        assert {name: answer.headers.get(name) for name in EVERYWHERE} == EVERYWHERE
        assert answer.headers["cache-control"] == "no-store"


async def test_a_route_may_say_otherwise(stack: Stack) -> None:
    answer = await stack.http.get("/api/v1/own")
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
    assert answer.headers.get_list("x-frame-options") == ["SAMEORIGIN"]


async def test_answers_with_tokens_are_not_stored(stack: Stack) -> None:
    login = await stack.http.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD})
    token = await stack.call("POST", "/tokens", json={"name": "ci"})
    for answer in (login, token):
        assert answer.is_success
        assert answer.headers.get_list("cache-control") == ["no-store"]
