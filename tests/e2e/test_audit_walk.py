"""Every change is attributable: each route and RPC that changes something leaves an audit record.

The routes are those of the OpenAPI document, the RPCs those of the server's reflection, so that none is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.fake_agent import registered
from support.mutations import ELSEWHERE, REQUESTS, SPEC, Grounds
from support.server import PASSWORD, Server, running
from support.wire_table import table

SECRET = re.compile(r"(pilot_|pilotreg_|pilotagent_|eyJ)[A-Za-z0-9_.-]{20,}")
MAX_RECORD = 10 << 10

REPORTS = {
    "agent.v1.AgentService/Heartbeat",
    "agent.v1.AgentService/Connect",
    "agent.v1.AgentService/FetchStepRun",
    "agent.v1.AgentService/ReportStepRunStatus",
    "agent.v1.AgentService/ReportJobRunStatus",
    "gateway.v1.GatewayService/PushLogs",
    "gateway.v1.GatewayService/PushEvents",
}
"""What agents report of work is in the journal, with the attempt and its agent; it changes nothing else."""

CHANGES = {
    "agent.v1.AgentService/Register",
    "agent.v1.AgentService/UpdateLabels",
    "agent.v1.AgentService/Unregister",
}

CANCELS = {"agent.v1.AgentService/CancelStepRun", "agent.v1.AgentService/CancelJobRun"}
"""Users call them; test_polling.py looks at their records."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("audit")) as server:
        yield server


def records(server: Server, query: str = "") -> list[dict[str, Any]]:
    """The newest audit records."""
    found: list[dict[str, Any]] = server.ask("GET", f"/audit?limit=100{query}")["entries"]
    return found


def of_request(server: Server, id: str) -> list[dict[str, Any]]:
    return [record for record in records(server) if record["request_id"] == id]


def test_every_route_that_changes_something_is_recorded(server: Server) -> None:
    grounds = Grounds.of(server, "audited")
    made = server.ask("POST", "/tokens", json={"name": "auditor"})
    me = server.ask("GET", "/auth/me")["id"]
    unrecorded = []
    for number, (route, prepare) in enumerate(REQUESTS.items()):
        request, id = prepare(grounds), f"walk-{number}"
        path = re.sub(r"{(\w+)}", lambda match, ids=request.ids: ids[match[1]], route[1])
        more = {**request.more, "headers": {**request.more.get("headers", {}), "X-Request-ID": id}}
        answer = server.call(route[0], path, made["token"], **more)
        assert answer.is_success, (route, answer.text)
        found = of_request(server, id)
        if not found:
            unrecorded.append(route)
        for record in found:
            assert record["token_id"] == made["id"], route
            assert record["actor"] == {"kind": "user", "id": me, "name": "admin"}, route
            assert record["address"] == "127.0.0.1", route
            assert record["action"], route
            assert record["target"], route
    assert unrecorded == []


def test_what_needs_more_than_a_request_is_recorded_too(server: Server) -> None:
    body = {"username": "elsa", "password": PASSWORD}
    server.ask("POST", "/users", json=body)
    login = server.call("POST", "/auth/login", None, json=body, headers=_id("login"))
    token = login.json()["token"]
    change = {"current_password": PASSWORD, "new_password": PASSWORD + "!"}
    walked = {
        ("POST", "/api/v1/auth/login"): login,
        ("POST", "/api/v1/auth/password"): server.call(
            "POST", "/auth/password", token, json=change, headers=_id("password")
        ),
        ("POST", "/api/v1/auth/logout"): server.call("POST", "/auth/logout", token, headers=_id("logout")),
    }
    id = of_request(server, "login")[0]["token_id"]
    for name in ("password", "logout"):
        (record,) = of_request(server, name)
        assert (record["actor"]["name"], record["token_id"]) == ("elsa", id)
    failed = {"username": "elsa", "password": "no"}
    assert server.call("POST", "/auth/login", None, json=failed, headers=_id("bad")).status_code == 401
    assert of_request(server, "bad")[0]["action"] == "auth.login_failed"
    assert all(answer.is_success for answer in walked.values())
    agents = {("PATCH", "/api/v1/agents/{agent_id}"), ("DELETE", "/api/v1/agents/{agent_id}")}
    # What an agent sends of its work is in the journal; test_artifacts.py deletes one.
    artifacts = {route for route in ELSEWHERE if "artifacts" in route[1]}
    assert set(walked) | agents | artifacts == ELSEWHERE, "agents are below"


def _id(id: str) -> dict[str, str]:
    return {"X-Request-ID": id}


async def test_what_happens_to_agents_is_recorded(server: Server) -> None:
    served = {m for m in table().methods if m.startswith(("agent.v1.AgentService/", "gateway.v1."))}
    assert served == CHANGES | REPORTS | CANCELS
    made = server.ask("POST", "/registration-tokens", json={"description": "walk"})
    async with await registered(server, "audited") as agent:
        registration = records(server, "&action=agent.register")[0]
        assert registration["detail"]["registration_token"] != made["id"]
        assert registration["target"] == "audited"
        await agent.call("agent.v1.AgentService/UpdateLabels", agent_id="audited", labels={"zone": "b"})
        labels = records(server, "&action=agent.update_labels")[0]
        own_id = labels["token_id"]
        assert own_id == server.ask("GET", "/agents/audited")["id"]
        for record in (registration, labels):
            assert record["actor"]["kind"] == "agent"
            assert record["address"] == "127.0.0.1"
        drained = server.call("PATCH", "/agents/audited", json={"status": "draining"}, headers=_id("drain"))
        assert drained.is_success
        assert of_request(server, "drain")[0]["actor"]["name"] == "admin"
        await agent.call("agent.v1.AgentService/Unregister", agent_id="audited")
        gone = next(r for r in records(server) if r["target"] == "audited")
        assert (gone["actor"]["kind"], gone["token_id"]) == ("agent", own_id)
    async with await registered(server, "audited-2"):
        assert server.call("DELETE", "/agents/audited-2", headers=_id("remove")).is_success
        assert of_request(server, "remove")[0]["target"] == "audited-2"


def test_records_hold_no_secrets_and_are_bounded(server: Server) -> None:
    long = "x" * 500
    run = server.trigger(server.pipeline("long", SPEC))
    server.ask("POST", f"/workflow-runs/{run}/cancel", json={"reason": long})
    page, seen = 1, 0
    while True:
        answer = server.call("GET", f"/audit?limit=100&page={page}")
        found = answer.json()["entries"]
        for record in found:
            text = str(record)
            assert not SECRET.search(text), text
            assert PASSWORD not in text
            assert "s3cr3t-value" not in text
            assert len(text) < MAX_RECORD
        seen, page = seen + len(found), page + 1
        if not found:
            break
    assert seen > len(REQUESTS)
