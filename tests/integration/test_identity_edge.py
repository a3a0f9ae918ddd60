"""The HTTP edge: error bodies, request ids, rate and body limits, proxies, browser safety, marked routes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from identity_kit import ENVELOPES, OFF, PASSWORD, Stack, running
from pilothouse.access.model import Principal, Role
from pilothouse.edge.limits import RateLimitSettings
from pilothouse.edge.web import Caller, OptionalCaller, allow, public, required_action, required_actions
from pilothouse.journal import CursorExpired, CursorInvalid
from pilothouse.storage import StorageBusy

RAISED = {
    "busy": StorageBusy("queue of 20000 full"),
    "expired": CursorExpired("too old"),
    "invalid": CursorInvalid("no cursor"),
    "bug": RuntimeError("the secret is hunter2-inside"),
    "type": TypeError("the secret is hunter2-inside"),
}


class Body(BaseModel):
    text: str


def add_routes(app: FastAPI) -> None:
    async def fail(what: str) -> None:
        raise RAISED[what]

    async def read(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.stream()])}

    async def echo(body: Body, caller: Caller) -> dict[str, str]:
        return {"by": caller.name}

    async def show(caller: OptionalCaller) -> dict[str, str | None]:
        return {"caller": None if caller is None else caller.name}

    async def address(caller: Caller) -> dict[str, str]:
        return {"address": caller.address, "request_id": caller.request_id}

    async def inside(caller: Annotated[Principal, allow("run.read", project_from="project")]) -> str:
        return caller.name

    app.add_api_route("/api/v1/fail/{what}", fail, dependencies=[public()])
    app.add_api_route("/api/v1/pipelines/fail/{what}", fail, dependencies=[public()])
    app.add_api_route("/api/v1/read", read, methods=["POST"], dependencies=[public()])
    app.add_api_route("/api/v1/large", read, methods=["POST"], dependencies=[public()])
    app.add_api_route("/api/v1/echo", echo, methods=["POST"], dependencies=[allow("run.trigger")])
    app.add_api_route("/api/v1/pipelines", echo, methods=["POST"], dependencies=[allow("pipeline.write")])
    app.add_api_route("/api/v1/show", show, dependencies=[public()])
    app.add_api_route("/api/v1/address", address, dependencies=[allow("run.read")])
    app.add_api_route("/api/v1/inside/{project}", inside)
    app.add_api_route("/health", show, dependencies=[public()])


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path, body_limit=1000, body_limits={"/api/v1/large": 5000}) as stack:
        add_routes(stack.app)
        yield stack


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("DELETE", "/echo", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/fail/busy", 503, "STORAGE_BUSY"),
        ("GET", "/fail/expired", 410, "CURSOR_EXPIRED"),
        ("GET", "/fail/invalid", 400, "CURSOR_INVALID"),
        ("GET", "/fail/bug", 500, "INTERNAL_ERROR"),
        ("GET", "/fail/type", 500, "INTERNAL_ERROR"),
    ],
)
async def test_error_bodies(stack: Stack, method: str, path: str, status: int, code: str) -> None:
    answer = await stack.call(method, path, headers={"X-Request-ID": "abc-1"})
    assert answer.status_code == status
    body = answer.json()
    assert set(body) - {"details"} == {"error", "message", "code", "timestamp", "request_id"}
    assert body["code"] == code
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    assert body["request_id"] == answer.headers["x-request-id"] == "abc-1"
    assert "hunter2-inside" not in answer.text


@pytest.mark.parametrize(("what", "status"), [("busy", 503), ("bug", 500)])
async def test_error_bodies_in_the_envelope(stack: Stack, what: str, status: int) -> None:
    answer = await stack.call("GET", f"/pipelines/fail/{what}")
    assert answer.status_code == status
    body = answer.json()
    assert body["code"] == status
    assert body["path"] == f"/api/v1/pipelines/fail/{what}"
    assert isinstance(body["timestamp"], int)
    assert body["errMsg"]
    assert "error" not in body
    unknown = await stack.call("GET", "/pipelines/x/nowhere")
    assert (unknown.status_code, unknown.json()["errorCode"]) == (404, "NOT_FOUND")
    invalid = await stack.call("POST", "/pipelines", json={})
    assert (invalid.status_code, invalid.json()["errorCode"]) == (400, "MISSING_REQUIRED_FIELD")


async def test_request_ids_are_made_where_none_or_nonsense_is_given(stack: Stack) -> None:
    for headers in ({}, {"X-Request-ID": "a b"}, {"X-Request-ID": "x" * 200}):
        given = (await stack.call("GET", "/show", headers=headers)).headers["x-request-id"]
        assert re.fullmatch(r"req-[0-9a-f-]{36}", given)


async def test_the_request_id_reaches_the_principal(stack: Stack) -> None:
    answer = await stack.call("GET", "/address", headers={"X-Request-ID": "abc-2"})
    assert answer.json() == {"address": "192.0.2.1", "request_id": "abc-2"}


async def test_malformed_json_is_400_for_callers_and_401_for_strangers(stack: Stack) -> None:
    sent: dict[str, Any] = {"content": b'{"text": ', "headers": {"Content-Type": "application/json"}}
    answer = await stack.call("POST", "/echo", **sent)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_FAILED")
    assert (await stack.http.post("/api/v1/echo", **sent)).status_code == 401
    assert (await stack.http.post("/api/v1/auth/login", **sent)).status_code == 400
    assert (await stack.http.post("/api/v1/echo", json={})).status_code == 401


async def test_open_routes_know_their_caller(stack: Stack) -> None:
    assert (await stack.http.get("/api/v1/show")).json() == {"caller": None}
    assert (await stack.call("GET", "/show")).json() == {"caller": "admin"}
    assert (await stack.call("GET", "/show", "pilot_wrong")).status_code == 401


async def test_a_route_may_ask_for_a_right_in_a_project(stack: Stack) -> None:
    ann = await stack.user("ann")
    default = (await stack.call("GET", "/auth/me", ann)).json()["projects"][0]
    assert (await stack.call("GET", f"/inside/{default}", ann)).json() == "ann"
    assert (await stack.call("GET", "/inside/other", ann)).status_code == 403
    assert (await stack.call("GET", "/inside/other")).json() == "admin"


# -- limits ---------------------------------------------------------------------------------------------


async def test_requests_are_counted_by_token_and_reported_in_headers(tmp_path: Path) -> None:
    async with running(tmp_path, RateLimitSettings("off", "1/minute", "2/minute")) as stack:
        add_routes(stack.app)
        ann = await stack.user("ann")
        answers = [await stack.call("GET", path, ann) for path in ("/show", "/nowhere", "/show")]
        assert [answer.status_code for answer in answers] == [200, 404, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
        assert all(answer.headers["x-ratelimit-limit"] == "2" for answer in answers)
        reset = int(answers[0].headers["x-ratelimit-reset"])
        assert 0 <= reset - stack.clock() / 1000 <= 61
        body = answers[2].json()
        assert body["error"] == "Rate limit exceeded"
        assert body["code"] == "RATE_LIMIT_EXCEEDED"
        assert body["message"] == f"Too many requests. Please try again in {body['retry_after']} seconds."
        assert body["retry_after"] == int(answers[2].headers["retry-after"])
        assert "x-request-id" in answers[2].headers
        sessions = [await stack.call("POST", "/sessions", ann) for _ in range(2)]
        assert [answer.status_code for answer in sessions] == [404, 429]
        assert (await stack.call("GET", "/show")).status_code == 200
        anonymous = [await stack.http.get("/api/v1/show") for _ in range(3)]
        assert [answer.status_code for answer in anonymous] == [200, 200, 429]
        for path in ("/health", "/openapi.json"):
            answer = await stack.http.get(path)
            assert answer.status_code == 200
            assert "x-ratelimit-limit" not in answer.headers
        stack.clock.ahead += 60_000
        assert (await stack.call("GET", "/show", ann)).status_code == 200


async def test_agents_are_not_counted(tmp_path: Path) -> None:
    agent = Principal("agent", "a1", "builder", None, frozenset(), "agent/a1", None)
    async with running(tmp_path, RateLimitSettings("off", "off", "1/minute")) as stack:
        add_routes(stack.app)
        stack.identity.add_authenticator(lambda conn, token: agent if token == "agent-token" else None)
        for _ in range(3):
            answer = await stack.call("GET", "/show", "agent-token")
            assert answer.json() == {"caller": "builder"}
            assert "x-ratelimit-limit" not in answer.headers
        assert (await stack.call("GET", "/inside/p", "agent-token")).status_code == 403


async def test_a_forwarded_address_counts_only_behind_a_trusted_proxy(tmp_path: Path) -> None:
    limits = RateLimitSettings("off", "off", "1/minute")
    async with running(tmp_path, limits, trusted_proxies=["10.0.0.0/8"]) as stack:
        add_routes(stack.app)

        async def show(peer: str, forwarded: str) -> int:
            async with stack.client(peer) as client:
                headers = {"X-Forwarded-For": forwarded}
                return (await client.get("/api/v1/show", headers=headers)).status_code

        assert await show("10.0.0.1", "203.0.113.1") == 200
        assert await show("10.0.0.2", "203.0.113.2") == 200
        assert await show("10.0.0.2", "203.0.113.1") == 429
        assert await show("192.0.2.50", "203.0.113.3") == 200
        assert await show("192.0.2.50", "203.0.113.4") == 429
        async with stack.client("10.0.0.1") as client:
            headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
            body = {"username": "admin", "password": PASSWORD}
            answer = await client.post("/api/v1/auth/login", json=body, headers=headers)
            assert "Secure" in answer.headers["set-cookie"]


async def test_bodies_are_bounded(stack: Stack) -> None:
    assert (await stack.call("POST", "/read", content=b"x" * 1000)).json() == {"bytes": 1000}
    for path in ("/read", "/echo", "/auth/login"):
        answer = await stack.call(
            "POST", path, content=b"x" * 1001, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert answer.headers["connection"] == "close"
    assert (await stack.call("POST", "/large", content=b"x" * 5000)).json() == {"bytes": 5000}
    assert (await stack.call("POST", "/large", content=b"x" * 5001)).status_code == 413


@pytest.mark.parametrize("path", ["/read", "/echo"])
async def test_chunked_bodies_are_bounded_and_not_read_on(stack: Stack, path: str) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 300

    answer = await stack.call("POST", path, content=chunks(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert sent == 4


# -- browsers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://pilot.test", 200),
        ("https://console.example", 200),
        ("http://evil.example", 403),
        ("null", 403),
        (None, 403),
    ],
)
async def test_a_cookie_changes_things_only_from_our_own_origin(
    tmp_path: Path, origin: str | None, status: int
) -> None:
    async with running(tmp_path, allowed_origins=["https://console.example"]) as stack:
        add_routes(stack.app)
        headers = {"Cookie": f"pilot_token={stack.admin}", **({"Origin": origin} if origin else {})}
        answer = await stack.http.post("/api/v1/echo", json={"text": "x"}, headers=headers)
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["code"] == "ORIGIN_FORBIDDEN"
        assert (await stack.http.get("/api/v1/show", headers=headers)).json() == {"caller": "admin"}
        headers["Authorization"] = f"Bearer {stack.admin}"
        assert (await stack.http.post("/api/v1/echo", json={"text": "x"}, headers=headers)).status_code == 200


async def test_logging_out_clears_the_cookie(stack: Stack) -> None:
    answer = await stack.call("POST", "/auth/logout")
    assert re.match(r'pilot_token=""; expires=.*Max-Age=0', answer.headers["set-cookie"], re.IGNORECASE)


async def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for bad in ({"allowed_origins": ["console.example"]}, {"trusted_proxies": ["somewhere"]}):
        with pytest.raises(ValueError, match=r"console\.example|somewhere"):
            async with running(tmp_path, OFF, **bad):
                raise AssertionError("started with bad settings")


# -- what routes say of themselves ----------------------------------------------------------------------


async def test_every_route_declares_what_it_requires(stack: Stack) -> None:
    actions = {(method, path): action for method, path, action in required_actions(stack.app)}
    assert actions["POST", "/api/v1/auth/login"] == "public"
    assert actions["GET", "/api/v1/users/{user}"] == "user.admin"
    assert actions["POST", "/api/v1/projects"] == "project.write"
    assert actions["GET", "/api/v1/inside/{project}"] == "run.read"
    unmarked = {path for (_, path), action in actions.items() if action is None}
    assert unmarked == {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
    assert required_action(None) is None
    with pytest.raises(KeyError):
        allow("no.such")


async def test_marked_routes_are_closed_to_strangers(stack: Stack) -> None:
    for method, path, action in required_actions(stack.app):
        if action in (None, "public") or method == "HEAD":
            continue
        answer = await stack.http.request(method, re.sub(r"\{\w+\}", "x", path))
        assert answer.status_code == 401, (method, path)


async def test_admin_routes_are_closed_to_viewers(stack: Stack) -> None:
    viewer = await stack.user("ann", Role.VIEWER)
    closed = {"user.admin", "project.write", "audit.read", "run.trigger", "pipeline.write"}
    for method, path, action in required_actions(stack.app):
        if action in closed:
            shown = re.sub(r"\{\w+\}", "x", path).removeprefix("/api/v1")
            answer = await stack.call(method, shown, viewer)
            assert answer.status_code == 403, (method, path)


async def test_the_openapi_document(stack: Stack) -> None:
    document = (await stack.http.get("/openapi.json")).json()
    assert document["paths"]["/api/v1/users"]["post"]["x-required-action"] == "user.admin"
    assert document["paths"]["/api/v1/auth/login"]["post"]["security"] == []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"]
            reference = operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"]
            enveloped = path.startswith(ENVELOPES)
            assert reference.endswith("EnvelopeError" if enveloped else "/Error")
            if path.startswith(("/api/v1/users", "/api/v1/auth", "/api/v1/tokens", "/api/v1/audit")):
                assert operation["summary"]
                assert operation["description"]
                answers = [r for status, r in operation["responses"].items() if status in ("200", "201")]
                assert method == "delete" or "example" in answers[0]["content"]["application/json"]
