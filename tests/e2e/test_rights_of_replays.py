"""An answer that an ``Idempotency-Key`` repeats is repeated only to those who might do it now."""

from __future__ import annotations

from typing import Any

import pytest

from support.bodies import plain_error
from support.server import Server

GATE = [{"name": "ask", "uses": "approval", "args": {"users": ["former"]}}]


@pytest.fixture(scope="module")
def former(shared_server: Server) -> tuple[str, str, str]:
    """A project, and the token and id of a user who is in it for now."""
    project = shared_server.project("former")
    token = shared_server.user("former", "user", [project])
    return project, token, shared_server.ask("GET", "/users/former")["id"]


def test_nothing_is_repeated_to_a_former_member(shared_server: Server, former: tuple[str, str, str]) -> None:
    server, (project, token, user_id) = shared_server, former
    pipeline = server.pipeline("replays", {"jobs": [{"name": "j", "steps": GATE}]}, project=project)
    runs = [server.trigger(pipeline) for _ in range(3)]
    gate = server.ask("GET", f"/gates?run={runs[0]}&status=open")["gates"][0]["id"]
    asked: list[tuple[str, dict[str, Any]]] = [
        (f"/gates/{gate}", {"json": {"decision": "approve"}}),
        (f"/workflow-runs/{runs[1]}/pause", {}),
        (f"/workflow-runs/{runs[1]}/resume", {}),
        (f"/workflow-runs/{runs[1]}/cancel", {}),
        (f"/workflow-runs/{runs[1]}/rerun", {}),
        (f"/pipelines/{pipeline}/runs/{runs[2]}/pause", {}),
        (f"/pipelines/{pipeline}/runs/{runs[2]}/resume", {}),
        (f"/pipelines/{pipeline}/runs/{runs[2]}/stop", {}),
        (f"/pipelines/{pipeline}/trigger", {}),
    ]
    key = {"Idempotency-Key": "once"}
    first = [server.call("POST", path, token, headers=key, **more) for path, more in asked]
    assert [answer.status_code for answer in first] == [200, 200, 200, 202, 201, 200, 200, 200, 201]
    again = [server.call("POST", path, token, headers=key, **more) for path, more in asked]
    assert [answer.content for answer in again] == [answer.content for answer in first]
    server.ask("DELETE", f"/projects/{project}/members/{user_id}")
    codes = []
    for path, more in asked:
        answer = server.call("POST", path, token, headers=key, **more)
        codes.append((answer.status_code, "idempotency-replayed" in answer.headers))
    assert codes == [(404, False)] * len(asked)
    gone = server.call("POST", f"/gates/{gate}", token, headers=key, json={"decision": "approve"})
    plain_error(gone, 404, "GATE_NOT_FOUND")
