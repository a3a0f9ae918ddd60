"""REST by the contract pages: the shapes of what is asked and answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.bodies import TIME, UNKNOWN, UUID7, enveloped_error, plain_error, success
from support.server import PASSWORD, Server, running, spec_for
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rest_contract"), max_blob=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/openapi.json").json()
    return found


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
        ({"username": "admin", "password": "x" * 10_000}, 400, "VALIDATION_FAILED"),
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
    assert set(listed["users"][0]) >= {
        "id",
        "username",
        "email",
        "role",
        "active",
        "created_at",
        "last_login",
    }
    assert server.ask("GET", f"/users/{user['id']}") == server.ask("GET", "/users/john.doe")
    again = server.call("POST", "/users", json={"username": "John.Doe", "password": PASSWORD})
    plain_error(again, 409, "USER_ALREADY_EXISTS")
    plain_error(server.call("POST", "/users", json={"username": "x"}), 400, "MISSING_REQUIRED_FIELD")
    for bad in (
        {"role": "king"},
        {"password": "short"},
        {"email": "no"},
        {"username": "a b"},
        {"projects": ["x"]},
    ):
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
    made = server.call(
        "POST", "/registration-tokens", json={"description": "hosts", "max_uses": 2, "expires_in": 60}
    )
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
    server.call(
        "POST",
        "/users",
        json={"username": "audited", "password": PASSWORD},
        headers={"X-Request-ID": request_id},
    )
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

    saved, wrong = {"spec": spec_for("y")}, {"username": "admin", "password": "no"}
    steps: list[tuple[str, Any]] = [
        ("pipeline", create_pipeline),
        ("change", lambda: server.ask("PUT", f"/pipelines/{made['pipeline']}", json={"description": "x"})),
        ("spec", lambda: server.ask("POST", f"/pipelines/{made['pipeline']}/spec/save", json=saved)),
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
        ("failed login", lambda: server.call("POST", "/auth/login", None, json=wrong)),
    ]  # fmt: skip
    silent = []
    for name, act in steps:
        before = total()
        act()
        if total() <= before:
            silent.append(name)
    assert silent == []


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
        "status", "saveMode", "metadata", "totalRuns", "createdBy", "isEnabled", "createdAt",
        "updatedAt", "prTargetBranch", "lastSyncMessage", "lastSyncedAt"}  # fmt: skip
    assert (shown["prTargetBranch"], shown["lastSyncMessage"], shown["lastSyncedAt"]) == ("", "", 0)
    assert isinstance(shown["createdAt"], int)
    assert isinstance(shown["status"], int)
    valid = success(
        server.call("POST", f"/pipelines/{pipeline_id}/spec/validate", json={"spec": spec_for("x")})
    )
    assert (valid["jobsCount"], valid["warnings"]) == (1, [])
    saved = success(server.call("POST", f"/pipelines/{pipeline_id}/spec/save", json={"spec": spec_for("x")}))
    assert set(saved) >= {"commitSha", "branch", "saveMode", "prUrl", "prBranch"}
    stale = {"spec": spec_for("z"), "expectedHeadCommitSha": "0" * 40}
    enveloped_error(server.call("POST", f"/pipelines/{pipeline_id}/spec/save", json=stale), 409)
    spec = success(server.call("GET", f"/pipelines/{pipeline_id}/spec"))
    assert spec["headCommitSha"] == saved["commitSha"]
    assert spec["spec"]["jobs"][0]["name"] == "build"
    started = success(
        server.call(
            "POST",
            f"/pipelines/{pipeline_id}/trigger",
            json={"variables": {"a": "b"}, "triggeredBy": "mallory"},
        ),
        201,
    )
    run = success(server.call("GET", f"/pipelines/{pipeline_id}/runs/{started['runId']}"))
    assert set(run) >= {
        "runId", "pipelineId", "pipelineName", "branch", "commitSha", "status", "triggerType", "triggeredBy",
        "variables", "totalJobs", "completedJobs", "failedJobs", "runningJobs", "startTime", "endTime",
        "duration"}  # fmt: skip
    assert (run["status"], run["triggerType"], run["triggeredBy"]) == (2, 1, "admin")
    listed = success(server.call("GET", f"/pipelines/{pipeline_id}/runs?status=2"))
    assert (listed["total"], listed["page"], listed["pageSize"]) == (1, 1, 20)
    stopped = success(
        server.call("POST", f"/pipelines/{pipeline_id}/runs/{started['runId']}/stop", json={"reason": "no"})
    )
    assert stopped["runId"] == started["runId"]
    assert success(server.call("GET", f"/pipelines/{pipeline_id}/runs/{started['runId']}"))["status"] == 5
    again = server.call("POST", f"/pipelines/{pipeline_id}/runs/{started['runId']}/stop")
    assert again.status_code in (400, 409)
    assert enveloped_error(again, again.status_code)["errMsg"] == "the run was cancelled already"
    enveloped_error(server.call("GET", f"/pipelines/{pipeline_id}/runs/{UNKNOWN}"), 404)
    success(server.call("PUT", f"/pipelines/{pipeline_id}", json={"isEnabled": 0}))
    enveloped_error(server.call("POST", f"/pipelines/{pipeline_id}/trigger", json={}), 409)
    rerun = f"/workflow-runs/{started['runId']}/rerun"
    for start in ("start", "failed"):
        plain_error(server.call("POST", rerun, json={"from": start}), 409, "PIPELINE_DISABLED")
    success(server.call("DELETE", f"/pipelines/{pipeline_id}"))
    plain_error(server.call("POST", rerun, json={}), 404, "PIPELINE_NOT_FOUND")
    enveloped_error(server.call("GET", f"/pipelines/{pipeline_id}"), 404)
    view = server.ask("GET", f"/workflow-runs/{started['runId']}")
    assert set(view) >= {"id", "kind", "status", "pipeline_id", "reason", "jobs"}
    assert (view["kind"], view["status"], view["pipeline_id"]) == ("pipeline", "cancelled", pipeline_id)


@pytest.mark.parametrize("path", ["/pipelines/{0}/runs/{1}", "/workflow-runs/{1}"])
def test_pausing(server: Server, path: str) -> None:
    pipeline_id = server.pipeline(f"pausing-{path[1]}", spec_for("nobody"))
    run_id = server.trigger(pipeline_id)
    here = path.format(pipeline_id, run_id)
    shown = server.ask("POST", f"{here}/pause")
    assert shown.get("status") in (6, "running")
    assert server.ask("GET", f"/pipelines/{pipeline_id}/runs/{run_id}")["status"] == 6
    listed = {n: server.ask("GET", f"/pipelines/{pipeline_id}/runs?status={n}")["total"] for n in range(7)}
    assert listed == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 1}
    view = server.ask("GET", f"/workflow-runs/{run_id}")
    assert (view["status"], view["reason"]) == ("running", "paused by admin")
    assert server.call("POST", f"{here}/pause").status_code == 400
    assert server.ask("POST", f"{here}/resume").get("status") in (2, "running")
    assert server.ask("GET", f"/workflow-runs/{run_id}")["paused_at"] is None
    assert server.call("POST", f"{here}/resume").status_code == 400
    assert server.call("POST", f"{here.replace(run_id, UNKNOWN)}/pause").status_code == 404


def one_step(**more: Any) -> dict[str, Any]:
    """A spec of one step."""
    step = {"name": "y", "uses": "shell", "args": {"command": "z"}, **more}
    return {"jobs": [{"name": "x", "steps": [step]}]}


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
    one_step(timeout="forever"),
    one_step(args={"command": "${{ " + "(" * 5000 + " }}"}),
    {"jobs": [{"name": "x", "when": "1 +", "steps": [{"name": "y", "uses": "shell", "args": {"command": "z"}}]}]},
    {"version": 1e400},
]  # fmt: skip


@pytest.mark.parametrize("spec", HOSTILE_SPECS, ids=lambda s: re.sub(r"\W+", "-", str(s))[:40])
def test_bad_specs_are_reported(server: Server, spec: Any) -> None:
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
        b'{"spec": ' + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"}",
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


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []


def test_a_run_names_the_definition_it_was_made_from(server: Server) -> None:
    """Not the one in force now; a spec that came with the trigger is none that was saved."""
    spec = spec_for("nobody")
    pipeline_id = server.pipeline("defined", spec)
    head = server.ask("GET", f"/pipelines/{pipeline_id}")["lastCommitSha"]

    def trigger(**more: Any) -> str:
        return str(server.ask("POST", f"/pipelines/{pipeline_id}/trigger", json=more)["runId"])

    def definition(run_id: str) -> str:
        return str(server.ask("GET", f"/pipelines/{pipeline_id}/runs/{run_id}")["definitionCommitSha"])

    saved, inline = trigger(), trigger(spec=spec)
    server.ask("POST", f"/pipelines/{pipeline_id}/spec/save", json={"spec": spec_for("nobody-else")})
    assert server.ask("GET", f"/pipelines/{pipeline_id}")["lastCommitSha"] != head
    assert definition(saved) == head
    assert definition(inline) == ""
    server.ask("POST", f"/pipelines/{pipeline_id}/runs/{saved}/stop", json={})
    rerun = server.ask("POST", f"/workflow-runs/{saved}/rerun", json={})["id"]
    assert definition(rerun) == head
