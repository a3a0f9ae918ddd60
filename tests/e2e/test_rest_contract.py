"""REST by the contract pages: shapes, errors, limits, idempotency, paging, and the document that describes it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.server import PASSWORD, Server, running, spec_for
from support.waiting import eventually

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
ENVELOPED = ("/api/v1/pipelines", "/api/v1/projects", "/api/v1/roles", "/api/v1/secrets")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rest"), max_blob=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/openapi.json").json()
    return found


def plain_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """An error body of the StreamSpace page."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert {"error", "message", "code", "timestamp", "request_id"} <= set(body)
    assert isinstance(body["error"], str)
    assert isinstance(body["message"], str)
    assert isinstance(body.get("details", {}), dict)
    assert TIME.fullmatch(body["timestamp"])
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def enveloped_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """An error body of the Arcentra families."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, status), answer.text
    assert isinstance(body["errMsg"], str)
    assert body["errMsg"]
    assert body["path"] == answer.request.url.path
    assert isinstance(body["timestamp"], int)
    assert abs(body["timestamp"] - time.time()) < 60
    assert "msg" not in body
    return body


def success(answer: httpx.Response, status: int = 200) -> Any:
    """The detail of a success of the Arcentra families."""
    body = answer.json()
    assert (answer.status_code, body["code"], body["msg"]) == (status, status, "success"), answer.text
    assert set(body) <= {"code", "msg", "detail", "timestamp"}
    assert isinstance(body["timestamp"], int)
    _only_camel_case(body.get("detail"))
    return body.get("detail")


def _only_camel_case(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            assert "_" not in key, key
            if key not in ("variables", "metadata", "args", "env", "spec"):
                _only_camel_case(inner)
    elif isinstance(value, list):
        for inner in value:
            _only_camel_case(inner)


# -- shapes ---------------------------------------------------------------------------------------------


def test_logging_in_and_out(server: Server) -> None:
    answer = server.call("POST", "/auth/login", None, json={"username": "admin", "password": PASSWORD})
    body = answer.json()
    assert set(body) >= {"token", "user", "expires_at"}
    assert set(body["user"]) >= {"id", "username", "email", "role", "created_at"}
    assert (body["user"]["username"], body["user"]["role"]) == ("admin", "admin")
    assert UUID7.fullmatch(body["user"]["id"])
    assert TIME.fullmatch(body["user"]["created_at"])
    assert TIME.fullmatch(body["expires_at"])
    assert "password" not in answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert "pilot_token=" in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    left = server.call("POST", "/auth/logout", body["token"])
    assert (left.status_code, left.json()) == (200, {"message": "Logout successful"})
    plain_error(server.call("GET", "/auth/me", body["token"]), 401, "AUTH_TOKEN_INVALID")
    plain_error(server.call("POST", "/auth/logout", body["token"]), 401, "AUTH_TOKEN_INVALID")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"username": "admin", "password": "wrong"}, 401, "AUTH_INVALID_CREDENTIALS"),
        ({"username": "nobody", "password": PASSWORD}, 401, "AUTH_INVALID_CREDENTIALS"),
        ({"username": "admin", "password": ""}, 401, "AUTH_INVALID_CREDENTIALS"),
        ({"username": "admin"}, 400, "MISSING_REQUIRED_FIELD"),
        ({}, 400, "MISSING_REQUIRED_FIELD"),
        ({"username": "admin", "password": 7}, 400, "VALIDATION_FAILED"),
        ({"username": ["admin"], "password": PASSWORD}, 400, "VALIDATION_FAILED"),
        ({"username": "ad\x00min", "password": PASSWORD}, 400, "VALIDATION_FAILED"),
        ({"username": "admin", "password": "x" * 100_000}, 400, "VALIDATION_FAILED"),
        ([], 400, "VALIDATION_FAILED"),
        ("text", 400, "VALIDATION_FAILED"),
        (None, 400, "MISSING_REQUIRED_FIELD"),
    ],
)
def test_logins_that_fail(server: Server, body: Any, status: int, code: str) -> None:
    found = plain_error(server.call("POST", "/auth/login", None, json=body), status, code)
    assert PASSWORD not in json.dumps(found)
    if code == "AUTH_INVALID_CREDENTIALS":
        assert found["message"] == "Invalid username or password"


def test_users(server: Server) -> None:
    made = server.call("POST", "/users", json={"username": "john.doe", "email": "john.doe@example.com",
                                               "password": PASSWORD, "role": "user"})  # fmt: skip
    assert made.status_code == 201
    user = made.json()
    assert set(user) >= {"id", "username", "email", "role", "active", "created_at"}
    assert (user["active"], user["role"]) == (True, "user")
    listed = server.ask("GET", "/users?role=user&limit=1")
    assert set(listed) == {"users", "pagination"}
    assert set(listed["pagination"]) == {"page", "limit", "total", "total_pages"}
    assert listed["pagination"]["limit"] == 1
    assert set(listed["users"][0]) >= {"id", "username", "email", "role", "active", "created_at", "last_login"}
    assert server.ask("GET", f"/users/{user['id']}") == server.ask("GET", "/users/john.doe")
    again = server.call("POST", "/users", json={"username": "John.Doe", "password": PASSWORD})
    plain_error(again, 409, "USER_ALREADY_EXISTS")
    plain_error(server.call("POST", "/users", json={"username": "x"}), 400, "MISSING_REQUIRED_FIELD")
    for bad in ({"role": "king"}, {"password": "short"}, {"email": "no"}, {"username": "a b"}, {"projects": ["x"]}):
        body = {"username": "bad", "password": PASSWORD, **bad}
        answer = server.call("POST", "/users", json=body)
        assert answer.status_code in (400, 404), (bad, answer.text)
        assert answer.json()["code"] in ("VALIDATION_FAILED", "PROJECT_NOT_FOUND")
    plain_error(server.call("GET", "/users?role=king"), 400, "INVALID_PARAMETER")
    plain_error(server.call("GET", f"/users/{UNKNOWN}"), 404, "USER_NOT_FOUND")
    changed = server.ask("PATCH", "/users/john.doe", json={"role": "operator"})
    assert changed["role"] == "operator"
    assert server.call("DELETE", "/users/john.doe").status_code == 204
    assert server.ask("GET", "/users/john.doe")["active"] is False


def test_the_last_admin_stays(server: Server) -> None:
    for method, body in (("DELETE", None), ("PATCH", {"role": "viewer"}), ("PATCH", {"active": False})):
        answer = server.call(method, "/users/admin", json=body)
        assert 400 <= answer.status_code < 500, (method, body)
    assert server.ask("GET", "/auth/me")["role"] == "admin"


def test_tokens(server: Server) -> None:
    made = server.call("POST", "/tokens", json={"name": "ci", "role": "viewer", "expires_in": 3600})
    assert made.status_code == 201
    token = made.json()
    assert set(token) >= {"id", "name", "role", "token", "expires_at", "created_at"}
    me = server.ask("GET", "/auth/me", token["token"])
    assert (me["username"], me["token"]["role"]) == ("admin", "viewer")
    listed = server.ask("GET", "/tokens")
    shown = next(t for t in listed["tokens"] if t["id"] == token["id"])
    assert "token" not in shown
    assert token["token"] not in json.dumps(listed)
    for bad in ({}, {"name": ""}, {"name": "x", "role": "king"}, {"name": "x", "expires_in": 0},
                {"name": "x", "expires_in": 10**12}, {"name": "x", "expires_in": "soon"}):  # fmt: skip
        answer = server.call("POST", "/tokens", json=bad)
        assert answer.status_code == 400, bad
    assert server.call("DELETE", f"/tokens/{token['id']}").status_code == 204
    plain_error(server.call("DELETE", f"/tokens/{UNKNOWN}"), 404, "TOKEN_NOT_FOUND")


def test_registration_tokens(server: Server) -> None:
    made = server.call("POST", "/registration-tokens", json={"description": "hosts", "max_uses": 2, "expires_in": 60})
    assert made.status_code == 201
    token = made.json()
    assert set(token) >= {"id", "token", "expires_at"}
    assert TIME.fullmatch(token["expires_at"])
    assert server.ask("POST", "/registration-tokens", json={})["expires_at"] is None
    for bad in ({"max_uses": 0}, {"max_uses": 2**40}, {"expires_in": -1}, {"description": "x" * 5000}):
        plain_error(server.call("POST", "/registration-tokens", json=bad), 400, "VALIDATION_FAILED")
    plain_error(server.call("DELETE", f"/registration-tokens/{UNKNOWN}"), 404, "TOKEN_NOT_FOUND")
    listed = server.call("GET", "/registration-tokens")
    assert listed.status_code == 200
    assert token["token"] not in listed.text
    assert token["id"] in listed.text


def test_agents(server: Server) -> None:
    listed = server.ask("GET", "/agents?platform=kubernetes&status=online&region=x&page=1&limit=100")
    assert listed == {"agents": [], "pagination": {"page": 1, "limit": 100, "total": 0, "total_pages": 0}}
    stats = server.ask("GET", "/agents/stats")
    assert set(stats) >= {
        "total_agents", "online_agents", "offline_agents", "draining_agents", "by_platform", "total_capacity",
        "utilization"}  # fmt: skip
    assert set(stats["total_capacity"]) >= {"max_sessions", "current_sessions"}
    assert set(stats["utilization"]) >= {"percentage", "sessions_available"}
    found = plain_error(server.call("GET", "/agents/nobody"), 404, "AGENT_NOT_FOUND")
    assert found["error"] == "Agent not found"
    assert found["message"] == "No agent with ID 'nobody' exists"
    plain_error(server.call("PATCH", "/agents/nobody", json={"status": "draining"}), 404, "AGENT_NOT_FOUND")
    plain_error(server.call("PATCH", "/agents/nobody", json={"status": "dead"}), 400, "VALIDATION_FAILED")
    plain_error(server.call("PATCH", "/agents/nobody", json={}), 400, "MISSING_REQUIRED_FIELD")
    plain_error(server.call("GET", "/agents?status=dead"), 400, "INVALID_PARAMETER")


async def test_an_agent_in_the_shape_of_the_page(server: Server) -> None:
    from support.fake_agent import registered

    async with await registered(server, "shaped", labels={"zone": "a"}):
        agent = await eventually(lambda: _online(server, "shaped"))
        assert set(agent) >= {
            "id", "agent_id", "platform", "region", "status", "capacity", "metadata", "websocket_conn_id",
            "last_heartbeat", "uptime_seconds", "sessions", "created_at", "updated_at"}  # fmt: skip
        assert UUID7.fullmatch(agent["id"])
        assert set(agent["capacity"]) >= {"max_sessions", "current_sessions"}
        assert agent["sessions"] == []
        assert all(TIME.fullmatch(agent[t]) for t in ("last_heartbeat", "created_at", "updated_at"))
        changed = server.ask("PATCH", "/agents/shaped", json={"status": "draining"})
        assert set(changed) >= {"id", "agent_id", "status", "updated_at"}
        assert changed["status"] == "draining"
        assert [a["agent_id"] for a in server.ask("GET", "/agents?status=draining")["agents"]] == ["shaped"]
        assert server.ask("GET", "/agents/stats")["draining_agents"] == 1
        assert server.ask("PATCH", "/agents/shaped", json={"status": "online"})["status"] == "online"
        assert server.call("PATCH", "/agents/shaped", json={"status": "offline"}).status_code == 400


def _online(server: Server, agent_id: str) -> Any:
    agent = server.ask("GET", f"/agents/{agent_id}")
    return agent if agent["status"] == "online" and agent["last_heartbeat"] else None


def test_the_audit_trail(server: Server) -> None:
    request_id = "audit-me-1"
    server.call("POST", "/users", json={"username": "audited", "password": PASSWORD}, headers={"X-Request-ID": request_id})
    found = server.ask("GET", "/audit?action=user.*&limit=5")
    assert set(found) == {"entries", "pagination"}
    entry = next(e for e in found["entries"] if e["request_id"] == request_id)
    assert entry["actor"]["name"] == "admin"
    assert entry["target"].startswith("user/")
    assert entry["address"] == "127.0.0.1"
    assert TIME.fullmatch(entry["at"])
    assert PASSWORD not in json.dumps(found)


def test_every_mutation_is_in_the_audit_trail(server: Server) -> None:
    """Invariant 9: who, what, when, from where."""

    def total() -> int:
        return int(server.ask("GET", "/audit?limit=1")["pagination"]["total"])

    made: dict[str, str] = {}

    def create_pipeline() -> None:
        made["pipeline"] = server.ask("POST", "/pipelines", json={"name": "audited"})["pipelineId"]

    def trigger() -> None:
        body = {"spec": spec_for("nobody")}
        made["run"] = server.ask("POST", f"/pipelines/{made['pipeline']}/trigger", json=body)["runId"]

    def token() -> None:
        made["token"] = server.ask("POST", "/tokens", json={"name": "audited"})["id"]

    def registration() -> None:
        made["registration"] = server.ask("POST", "/registration-tokens", json={})["id"]

    steps: list[tuple[str, Any]] = [
        ("pipeline", create_pipeline),
        ("change", lambda: server.ask("PUT", f"/pipelines/{made['pipeline']}", json={"description": "x"})),
        ("spec", lambda: server.ask("POST", f"/pipelines/{made['pipeline']}/spec/save", json={"spec": spec_for("y")})),
        ("trigger", trigger),
        ("cancel", lambda: server.ask("POST", f"/workflow-runs/{made['run']}/cancel")),
        ("rerun", lambda: server.ask("POST", f"/workflow-runs/{made['run']}/rerun")),
        ("delete", lambda: server.ask("DELETE", f"/pipelines/{made['pipeline']}")),
        ("secret", lambda: server.ask("PUT", "/secrets/AUDITED", json={"value": "v"})),
        ("secret gone", lambda: server.ask("DELETE", "/secrets/AUDITED")),
        ("blob", lambda: server.ask("POST", "/blobs", content=b"x")),
        ("project", lambda: server.project("audited")),
        ("token", token),
        ("token gone", lambda: server.ask("DELETE", f"/tokens/{made['token']}")),
        ("registration", registration),
        ("registration gone", lambda: server.ask("DELETE", f"/registration-tokens/{made['registration']}")),
        ("login", lambda: server.login("admin")),
        ("failed login", lambda: server.call("POST", "/auth/login", None, json={"username": "admin", "password": "no"})),
    ]  # fmt: skip
    silent = []
    for name, act in steps:
        before = total()
        act()
        if total() <= before:
            silent.append(name)
    assert silent == []


# -- pipelines (Arcentra) -------------------------------------------------------------------------------


def test_a_pipelines_life(server: Server) -> None:
    created = success(server.call("POST", "/pipelines", json={"name": "life", "description": "d"}), 201)
    pipeline_id = created["pipelineId"]
    assert UUID7.fullmatch(pipeline_id)
    enveloped_error(server.call("POST", "/pipelines", json={"name": "life"}), 409)
    enveloped_error(server.call("GET", f"/pipelines/{pipeline_id}/spec"), 404)
    enveloped_error(server.call("POST", f"/pipelines/{pipeline_id}/trigger", json={}), 404)
    shown = success(server.call("GET", f"/pipelines/{pipeline_id}"))
    assert set(shown) >= {
        "pipelineId", "projectId", "name", "description", "repoUrl", "defaultBranch", "pipelineFilePath",
        "status", "saveMode", "metadata", "totalRuns", "createdBy", "isEnabled", "createdAt", "updatedAt"}  # fmt: skip
    assert isinstance(shown["createdAt"], int)
    assert isinstance(shown["status"], int)
    valid = success(server.call("POST", f"/pipelines/{pipeline_id}/spec/validate", json={"spec": spec_for("x")}))
    assert (valid["jobsCount"], valid["warnings"]) == (1, [])
    saved = success(server.call("POST", f"/pipelines/{pipeline_id}/spec/save", json={"spec": spec_for("x")}))
    assert set(saved) >= {"commitSha", "branch", "saveMode"}
    stale = {"spec": spec_for("z"), "expectedHeadCommitSha": "0" * 40}
    enveloped_error(server.call("POST", f"/pipelines/{pipeline_id}/spec/save", json=stale), 409)
    spec = success(server.call("GET", f"/pipelines/{pipeline_id}/spec"))
    assert spec["headCommitSha"] == saved["commitSha"]
    assert spec["spec"]["jobs"][0]["name"] == "build"
    started = success(
        server.call("POST", f"/pipelines/{pipeline_id}/trigger", json={"variables": {"a": "b"}, "triggeredBy": "mallory"}), 201
    )
    run = success(server.call("GET", f"/pipelines/{pipeline_id}/runs/{started['runId']}"))
    assert set(run) >= {
        "runId", "pipelineId", "pipelineName", "branch", "commitSha", "status", "triggerType", "triggeredBy",
        "variables", "totalJobs", "completedJobs", "failedJobs", "runningJobs", "startTime", "endTime",
        "duration"}  # fmt: skip
    assert (run["status"], run["triggerType"], run["triggeredBy"]) == (2, 1, "admin")
    listed = success(server.call("GET", f"/pipelines/{pipeline_id}/runs?status=2"))
    assert (listed["total"], listed["page"], listed["pageSize"]) == (1, 1, 20)
    stopped = success(server.call("POST", f"/pipelines/{pipeline_id}/runs/{started['runId']}/stop", json={"reason": "no"}))
    assert stopped["runId"] == started["runId"]
    assert success(server.call("GET", f"/pipelines/{pipeline_id}/runs/{started['runId']}"))["status"] == 5
    again = server.call("POST", f"/pipelines/{pipeline_id}/runs/{started['runId']}/stop")
    assert again.status_code in (400, 409)
    enveloped_error(again, again.status_code)
    enveloped_error(server.call("GET", f"/pipelines/{pipeline_id}/runs/{UNKNOWN}"), 404)
    success(server.call("PUT", f"/pipelines/{pipeline_id}", json={"isEnabled": 0}))
    enveloped_error(server.call("POST", f"/pipelines/{pipeline_id}/trigger", json={}), 409)
    success(server.call("DELETE", f"/pipelines/{pipeline_id}"))
    enveloped_error(server.call("GET", f"/pipelines/{pipeline_id}"), 404)
    view = server.ask("GET", f"/workflow-runs/{started['runId']}")
    assert set(view) >= {"id", "kind", "status", "pipeline_id", "reason", "jobs"}
    assert (view["kind"], view["status"], view["pipeline_id"]) == ("pipeline", "cancelled", pipeline_id)


@pytest.mark.xfail(strict=True, reason="pausing is not part of this slice; decisions.md names both paths")
@pytest.mark.parametrize("path", ["/pipelines/{}/runs/{}/pause", "/pipelines/{}/runs/{}/resume",
                                  "/workflow-runs/{1}/pause", "/workflow-runs/{1}/resume"])  # fmt: skip
def test_pausing(server: Server, document: dict[str, Any], path: str) -> None:
    known = {re.sub(r"{\w+}", "{}", known) for known in document["paths"]}
    assert f"/api/v1{path}".replace("{1}", "{}") in known


HOSTILE_SPECS: list[Any] = [
    "",
    "jobs:",
    "- a\n- b",
    "jobs: [{name: x, steps: [{name: y, uses: shell, args: {command: z}, unknown: 1}]}]",
    "jobs: [{name: x, dependsOn: [x], steps: [{name: y, uses: shell, args: {command: z}}]}]",
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e]",
    "a: &a [*a]",
    "!!python/object/apply:os.system ['true']",
    "jobs: !!binary x",
    "{" * 5000,
    "[" * 5000 + "]" * 5000,
    "\x00",
    "\ud83d\ude00: 1",
    "jobs: [{name: 'a\\u0000b'}]",
    {},
    {"jobs": None},
    {"jobs": [None]},
    {"jobs": [{"name": {"a": 1}}]},
    {"jobs": [{"name": "x", "steps": [{"name": "y", "uses": "shell", "args": {"command": "z"}, "timeout": "forever"}]}]},
    {"jobs": [{"name": "x", "steps": [{"name": "y", "uses": "shell", "args": {"command": "${{ " + "(" * 5000 + " }}"}}]}]},
    {"jobs": [{"name": "x", "when": "1 +", "steps": [{"name": "y", "uses": "shell", "args": {"command": "z"}}]}]},
    {"version": 1e400},
]  # fmt: skip


@pytest.mark.parametrize("spec", HOSTILE_SPECS, ids=lambda s: re.sub(r"\W+", "-", str(s))[:40])
def test_bad_specs_are_said_to_be_bad(server: Server, spec: Any) -> None:
    content = json.dumps({"spec": spec}).encode()
    headers = {"Content-Type": "application/json"}
    answer = server.call("POST", "/pipelines/spec/validate", content=content, headers=headers)
    body = enveloped_error(answer, 400)
    if body.get("errorCode") == "SPEC_INVALID":
        for problem in body["details"]["problems"]:
            assert {"message", "line", "column", "path"} <= set(problem)


@pytest.mark.parametrize(
    "content",
    [
        b'{"spec": {"jobs": [{"name": "\\ud800"}]}}',
        b'{"spec": "\\ud800"}',
        b'{"spec": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"spec": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b'{"spec": {"version": ' + b"9" * 5000 + b"}}",
        b'{"spec": {"version": NaN, "jobs": []}}',
        b'{"spec": {"jobs": [{"name": 1e999}]}}',
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"",
        b"null",
        b"[]",
        b'{"spec": 1, "spec": 2}',
    ],
    ids=["surrogate-key", "surrogate", "deep-lists", "deep-maps", "huge-number", "nan", "inf", "open", "no-json",
         "no-utf8", "empty", "null", "list", "twice"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/pipelines/spec/validate", "/tokens"])
def test_malformed_json_is_a_400_in_the_familys_words(server: Server, path: str, content: bytes) -> None:
    answer = server.call("POST", path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    if path == "/tokens":
        plain_error(answer, 400, answer.json()["code"])
        assert answer.json()["code"] in ("VALIDATION_FAILED", "MISSING_REQUIRED_FIELD")
    else:
        enveloped_error(answer, 400)


# -- errors everywhere ----------------------------------------------------------------------------------


def test_errors_of_the_edge(server: Server) -> None:
    plain_error(server.call("GET", "/nowhere"), 404, "NOT_FOUND")
    plain_error(server.call("GET", "/nowhere", None), 404, "NOT_FOUND")
    enveloped_error(server.call("GET", "/pipelines/a/b/c/d"), 404)
    enveloped_error(server.call("GET", "/secrets/a/b/c"), 404)
    answer = server.call("PATCH", "/tokens")
    plain_error(answer, 405, "METHOD_NOT_ALLOWED")
    assert {"GET", "POST"} & set(answer.headers["allow"].replace(" ", "").split(","))
    answer = server.call("DELETE", "/pipelines")
    assert answer.status_code == 405
    enveloped_error(answer, 405)
    big = {"name": "x" * (3 << 20)}
    plain_error(server.call("POST", "/tokens", json=big), 413, "PAYLOAD_TOO_LARGE")
    enveloped_error(server.call("POST", "/pipelines", json=big), 413)
    chunks = iter([b'{"name":"', *[b"x" * 65536] * 48, b'"}'])
    plain_error(server.call("POST", "/tokens", content=chunks), 413, "PAYLOAD_TOO_LARGE")
    plain_error(server.call("POST", "/blobs", content=b"x" * 1_000_010), 413, "PAYLOAD_TOO_LARGE")
    chunks = iter([b"x" * 100_000] * 11)
    plain_error(server.call("POST", "/blobs", content=chunks), 413, "PAYLOAD_TOO_LARGE")
    for path in ("/%00", "/workflow-runs/%00", "/pipelines/%ff%fe", "/agents/" + "a" * 5000, "/users/%0d%0aX:1"):
        answer = server.call("GET", path)
        assert answer.status_code == 404, path
    assert server.alive


def test_unknown_things_have_their_own_codes(server: Server) -> None:
    for path, code in [
        (f"/workflow-runs/{UNKNOWN}", "RUN_NOT_FOUND"),
        (f"/workflow-runs/{UNKNOWN}/logs", "RUN_NOT_FOUND"),
        (f"/blobs/{UNKNOWN}", "BLOB_NOT_FOUND"),
        (f"/agents/{UNKNOWN}", "AGENT_NOT_FOUND"),
        (f"/users/{UNKNOWN}", "USER_NOT_FOUND"),
    ]:
        plain_error(server.call("GET", path), 404, code)
    for path, code in [
        (f"/pipelines/{UNKNOWN}", "PIPELINE_NOT_FOUND"),
        (f"/projects/{UNKNOWN}", "PROJECT_NOT_FOUND"),
    ]:
        assert enveloped_error(server.call("GET", path), 404)["errorCode"] == code
    assert enveloped_error(server.call("DELETE", "/secrets/NONE"), 404)["errorCode"] == "SECRET_NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/pipelines", {"name": "homeless", "projectId": UNKNOWN}),
        ("PUT", "/secrets/HOMELESS", {"value": "x", "projectId": UNKNOWN}),
        ("GET", f"/secrets?projectId={UNKNOWN}", None),
        ("POST", f"/blobs?project={UNKNOWN}", {}),
    ],
)
def test_nothing_is_made_in_a_project_that_does_not_exist(server: Server, method: str, path: str, body: Any) -> None:
    answer = server.call(method, path, json=body)
    assert answer.status_code == 404, answer.text
    assert "PROJECT_NOT_FOUND" in answer.text


def test_request_ids(server: Server) -> None:
    for path in ("/auth/me", "/nowhere", "/pipelines", "/healthz"):
        answer = server.call("GET", path, headers={"X-Request-ID": "req-given.1"})
        assert answer.headers["x-request-id"] == "req-given.1"
        assert server.call("GET", path).headers["x-request-id"]
    for bad in ("a b", "x" * 500, "<script>"):
        given = server.call("GET", "/nowhere", headers={"X-Request-ID": bad})
        assert given.headers["x-request-id"] != bad
        assert given.json()["request_id"] == given.headers["x-request-id"]


def test_a_blob_comes_back_as_it_was(server: Server) -> None:
    content = bytes(range(256)) * 100
    made = server.ask("POST", "/blobs", content=content)
    assert (made["size"], len(made["sha256"])) == (len(content), 64)
    assert server.call("GET", f"/blobs/{made['id']}").content == content
    wrong = server.call("POST", "/blobs", content=content, headers={"X-Content-SHA256": "0" * 64})
    plain_error(wrong, 400, "VALIDATION_FAILED")
    assert server.ask("POST", "/blobs", content=b"")["size"] == 0
    kept = {path.name for path in (server.data_dir / "blobs").iterdir()}
    assert not [name for name in kept if name.endswith(".part")]


def test_an_upload_broken_off_leaves_nothing(server: Server) -> None:
    before = set((server.data_dir / "blobs").iterdir())
    with socket.create_connection(("127.0.0.1", server.settings["port"])) as sock:
        head = f"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin}\r\n"
        sock.sendall(f"{head}Content-Length: 500000\r\n\r\n".encode() + b"x" * 1000)
    end = time.monotonic() + 5
    while set((server.data_dir / "blobs").iterdir()) != before:
        assert time.monotonic() < end, "a part of it is still there"
        time.sleep(0.02)


def test_browser_safety(server: Server) -> None:
    cookie = {"Cookie": f"pilot_token={server.admin}"}
    assert server.call("GET", "/auth/me", None, headers=cookie).status_code == 200
    for origin in (None, "https://evil.example", "null", server.url + ".evil.example"):
        headers = cookie | ({"Origin": origin} if origin else {})
        answer = server.call("POST", "/tokens", None, json={"name": "x"}, headers=headers)
        assert answer.status_code == 403, origin
    own = cookie | {"Origin": server.url}
    assert server.call("POST", "/tokens", None, json={"name": "x"}, headers=own).status_code == 201
    shown = server.call("GET", "/auth/me", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in shown.headers


# -- paging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/users", "/agents", "/tokens", "/audit", "/workflow-runs"])
def test_paging_of_the_streamspace_page(server: Server, path: str) -> None:
    for query in ("page=0", "page=-1", "limit=0", "limit=101", "limit=x", "page=99999999999999999999", "page="):
        plain_error(server.call("GET", f"{path}?{query}"), 400, "INVALID_PARAMETER")
    far = server.ask("GET", f"{path}?page=1000000&limit=100")
    (items,) = [value for key, value in far.items() if key != "pagination"]
    assert items == []
    assert far["pagination"]["page"] == 1_000_000
    default = server.ask("GET", path)["pagination"]
    assert (default["page"], default["limit"]) == (1, 20)
    assert default["total_pages"] == -(-default["total"] // 20)


@pytest.mark.parametrize("path", ["/pipelines", "/projects"])
def test_paging_of_the_arcentra_families(server: Server, path: str) -> None:
    for query in ("page=0", "pageSize=0", "pageSize=101", "pageSize=x"):
        enveloped_error(server.call("GET", f"{path}?{query}"), 400)
    detail = success(server.call("GET", f"{path}?page=1000000&pageSize=100"))
    assert (detail["list"], detail["page"], detail["pageSize"]) == ([], 1_000_000, 100)
    detail = success(server.call("GET", path))
    assert (detail["page"], detail["pageSize"]) == (1, 20)


def test_pages_join_to_the_whole(server: Server) -> None:
    names = [f"paged-{n:02}" for n in range(7)]
    project = server.project("paged")
    for name in names:
        server.ask("POST", "/pipelines", json={"name": name, "projectId": project})
    seen = []
    for page in (1, 2, 3):
        detail = server.ask("GET", f"/pipelines?projectId={project}&page={page}&pageSize=3")
        assert detail["total"] == 7
        seen += [pipeline["name"] for pipeline in detail["list"]]
    assert seen == names


# -- idempotency ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(server: Server) -> str:
    return server.pipeline("idempotent", spec_for("nobody"))


@pytest.mark.parametrize("what", ["pipeline", "trigger", "token", "registration", "project", "user"])
def test_the_same_key_gives_the_same_answer(server: Server, pipeline: str, what: str) -> None:
    path, body, other = {
        "pipeline": ("/pipelines", {"name": "once"}, {"name": "twice"}),
        "trigger": (f"/pipelines/{pipeline}/trigger", {"variables": {"a": "1"}}, {"variables": {"a": "2"}}),
        "token": ("/tokens", {"name": "once"}, {"name": "twice"}),
        "registration": ("/registration-tokens", {"description": "once"}, {"description": "twice"}),
        "project": ("/projects", {"name": "once"}, {"name": "twice"}),
        "user": ("/users", {"username": "once", "password": PASSWORD}, {"username": "twice", "password": PASSWORD}),
    }[what]
    key = {"Idempotency-Key": f"key-{what}"}
    first = server.call("POST", path, json=body, headers=key)
    assert first.status_code == 201
    again = server.call("POST", path, content=json.dumps(body, indent=4).encode(), headers=key | {"Content-Type": "application/json"})
    assert (again.status_code, again.json()) == (201, first.json())
    different = server.call("POST", path, json=other, headers=key)
    assert different.status_code == 409
    assert "IDEMPOTENCY_KEY_REUSED" in different.text
    for bad in ("", "x" * 300):
        assert server.call("POST", path, json=other, headers={"Idempotency-Key": bad}).status_code == 400


def test_concurrent_duplicates_make_one(server: Server, pipeline: str) -> None:
    for path, body in (
        (f"/pipelines/{pipeline}/trigger", {}),
        ("/pipelines", {"name": "raced"}),
        ("/registration-tokens", {}),
    ):
        with ThreadPoolExecutor(8) as pool:
            calls = [
                pool.submit(server.call, "POST", path, json=body, headers={"Idempotency-Key": "race"})
                for _ in range(8)
            ]
            answers = [call.result() for call in calls]
        assert {a.status_code for a in answers} == {201}, path
        assert len({a.text for a in answers}) == 1, path


def test_a_key_belongs_to_its_user_and_an_error_is_not_kept(server: Server, pipeline: str) -> None:
    other = server.user("keyed", "user")
    key = {"Idempotency-Key": "shared"}
    path = f"/pipelines/{pipeline}/trigger"
    mine, theirs = (server.ask("POST", path, token, json={}, headers=key) for token in ("admin", other))
    assert mine["runId"] != theirs["runId"]
    late = {"Idempotency-Key": "late"}
    empty = server.ask("POST", "/pipelines", json={"name": "late"})["pipelineId"]
    assert server.call("POST", f"/pipelines/{empty}/trigger", json={}, headers=late).status_code == 404
    server.ask("POST", f"/pipelines/{empty}/spec/save", json={"spec": spec_for("nobody")})
    assert server.call("POST", f"/pipelines/{empty}/trigger", json={}, headers=late).status_code == 201


def test_every_post_that_makes_something_takes_a_key(document: dict[str, Any]) -> None:
    neither = ("/auth/", "/validate", "/password")  # make and start nothing
    lacking = [
        path
        for path, operations in document["paths"].items()
        if "post" in operations
        and not any(part in path for part in neither)
        and "idempotency-key" not in {p["name"].lower() for p in operations["post"].get("parameters", [])}
    ]
    assert lacking == []


# -- the document ---------------------------------------------------------------------------------------


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    text = json.dumps(document)
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', text)):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    declared = set(document["components"]["securitySchemes"])
    for name, operation in operations(document):
        in_path = set(re.findall(r"{(\w+)}", name))
        given = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == given, name
        assert all(p.get("schema") for p in operation.get("parameters", [])), name
        assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path"), name
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d|default", status), name
            assert isinstance(response["description"], str), name
        assert all(set(choice) <= declared for choice in operation.get("security", [])), name
        body = operation.get("requestBody", {"content": {"x": {"schema": {}}}})
        assert body["content"], name


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    ids = [operation.get("operationId") for _, operation in operations(document)]
    assert None not in ids
    assert len(set(ids)) == len(ids)
    lacking = [
        (name, part)
        for name, operation in operations(document)
        for part in ("summary", "description", "x-required-action", "tags")
        if not operation.get(part)
    ]
    assert lacking == []


def test_every_operation_states_its_security(document: dict[str, Any]) -> None:
    wrong = []
    for name, operation in operations(document):
        expected: Any = [] if operation["x-required-action"] == "public" else [{"bearer": []}, {"cookie": []}]
        if operation.get("security") != expected:
            wrong.append(name)
    assert wrong == []


def test_every_operation_shows_an_example_of_success(document: dict[str, Any]) -> None:
    lacking = []
    for name, operation in operations(document):
        good = {status: r for status, r in operation["responses"].items() if status[0] == "2"}
        if not good:
            lacking.append(name)
        for status, response in good.items():
            shown = [c for c in response.get("content", {}).values() if "example" in c or "examples" in c]
            if status != "204" and not shown:
                lacking.append(name)
    assert lacking == []


def test_every_operation_describes_its_errors(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        content = operation["responses"]["default"]["content"]["application/json"]
        family = name.split(" ")[1].startswith(ENVELOPED)
        expected = "EnvelopeError" if family else "Error"
        assert content["schema"]["$ref"] == f"#/components/schemas/{expected}", name


def test_the_documents_codes_are_those_of_the_routes(server: Server, document: dict[str, Any]) -> None:
    """What creates says 201, what has no body 204; as the document says."""
    created = {
        ("POST", "/tokens"): {"name": "documented"},
        ("POST", "/pipelines"): {"name": "documented"},
        ("POST", "/registration-tokens"): {},
    }
    for (method, path), body in created.items():
        answer = server.call(method, path, json=body)
        assert str(answer.status_code) in document["paths"][f"/api/v1{path}"][method.lower()]["responses"]


def test_the_documents_pages(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        answer = server.http.get(server.url + path)
        assert answer.status_code == 200, path
        assert not [h for h in answer.headers if h.lower().startswith("x-ratelimit")], path


@pytest.mark.xfail(strict=True, reason="not part of this slice; decisions.md lists it at the root")
def test_asyncapi(server: Server) -> None:
    assert server.http.get(f"{server.url}/asyncapi.json").status_code == 200


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []


# -- rate limits ----------------------------------------------------------------------------------------


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
    from support.watchers import websocket

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
                    assert json.loads(await asyncio.wait_for(ws.recv(), 5))["type"] == "error"
            assert server.call("GET", "/auth/me").status_code == 200
