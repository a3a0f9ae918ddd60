"""``/api/v1/gates``: visibility, decisions and their effect on runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.bodies import TIME, UNKNOWN, plain_error
from support.server import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("gates")) as server:
        yield server


def gated(server: Server, name: str, project: str = "", **args: object) -> tuple[str, str]:
    """A run that waits at a gate, and the gate's id."""
    spec = {"jobs": [{"name": "j", "steps": [{"name": "ask", "uses": "approval", "args": args}]}]}
    run_id = server.trigger(server.pipeline(name, spec, project=project))
    [gate] = server.ask("GET", f"/gates?run={run_id}&status=open")["gates"]
    return run_id, gate["id"]


def test_an_approval_from_its_list_to_its_end(server: Server) -> None:
    project = server.project("gates")
    reader, user = server.user("reader", "viewer", [project]), server.user("ursula", "user", [project])
    outsider = server.user("outsider", "user", [])
    run_id, gate_id = gated(server, "approved", project, message="ship it?", users=["ursula"])
    shown = server.ask("GET", f"/gates/{gate_id}")
    assert shown["opened_at"]
    assert TIME.fullmatch(shown["opened_at"])
    assert (shown["run_id"], shown["kind"], shown["status"]) == (run_id, "hold", "open")
    assert (shown["message"], shown["users"], shown["decidable"]) == ("ship it?", ["ursula"], True)
    assert [server.ask("GET", f"/gates/{gate_id}", token=token)["decidable"] for token in (reader, user)] == [
        False,
        True,
    ]
    plain_error(server.call("GET", f"/gates/{gate_id}", token=outsider), 404, "GATE_NOT_FOUND")
    assert server.ask("GET", "/gates", token=outsider)["gates"] == []
    approve = {"decision": "approve", "comment": "checked"}
    for token, status, code in (
        (reader, 403, "AUTH_INSUFFICIENT_PERMISSIONS"),
        (outsider, 404, "GATE_NOT_FOUND"),
    ):
        plain_error(server.call("POST", f"/gates/{gate_id}", token=token, json=approve), status, code)
    decided = server.ask("POST", f"/gates/{gate_id}", token=user, json=approve)
    assert (decided["status"], decided["decided_by"], decided["comment"]) == ("approved", "ursula", "checked")
    assert server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded"
    answer = server.call("POST", f"/gates/{gate_id}", token=user, json=approve)
    plain_error(answer, 409, "GATE_CLOSED")
    [entry] = [e for e in server.ask("GET", "/audit")["entries"] if e["target"] == gate_id]
    assert (entry["action"], entry["actor"]["name"]) == ("gate.approve", "ursula")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"decision": "maybe"},
        {"decision": "approve", "comment": "x" * 1001},
        {"decision": "approve", "comment": "a\x00b"},
        [],
    ],
)
def test_bad_bodies_are_refused(server: Server, body: object) -> None:
    answer = server.call("POST", f"/gates/{UNKNOWN}", json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["code"] in ("VALIDATION_FAILED", "MISSING_REQUIRED_FIELD")


def test_unknown_gates_and_filters(server: Server) -> None:
    plain_error(server.call("GET", f"/gates/{UNKNOWN}"), 404, "GATE_NOT_FOUND")
    plain_error(server.call("POST", f"/gates/{UNKNOWN}", json={"decision": "approve"}), 404, "GATE_NOT_FOUND")
    plain_error(server.call("GET", "/gates?status=ajar"), 400, "INVALID_PARAMETER")
    assert server.ask("GET", f"/gates?run={UNKNOWN}")["pagination"]["total"] == 0


def test_a_rejection_is_idempotent_by_its_key(server: Server) -> None:
    run_id, gate_id = gated(server, "rejected")
    key = {"Idempotency-Key": "one-rejection"}
    body = {"decision": "reject", "comment": "no"}
    first, second = [server.call("POST", f"/gates/{gate_id}", json=body, headers=key) for _ in range(2)]
    assert first.json() == second.json()
    assert first.json()["status"] == "rejected"
    view = server.ask("GET", f"/workflow-runs/{run_id}")
    assert view["status"] == "failed"
    assert view["jobs"][0]["steps"][0]["reason"] == "rejected by admin: no"
