"""Secrets of projects and pipelines over HTTP, and which of them a step gets."""

from __future__ import annotations

from typing import Any

import pytest

from support.fake_agent import registered
from support.server import Server, spec_for
from support.world import UNKNOWN


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


def code(server: Server, method: str, path: str, token: str = "admin", **more: Any) -> tuple[int, str]:
    answer = server.call(method, path, token, **more)
    return answer.status_code, answer.json().get("errorCode", "")


def test_a_secret_by_id_and_by_name(server: Server) -> None:
    project = server.project("secret-ids")
    body = {"name": "KEY", "value": "first-value", "projectId": project}
    made = server.ask("POST", "/secrets", json=body)
    assert (made["name"], made["scope"], made["scopeId"], made["projectId"]) == (
        "KEY",
        "project",
        project,
        project,
    )
    assert code(server, "POST", "/secrets", json=body) == (409, "SECRET_ALREADY_EXISTS")
    path = f"/secrets/{made['secretId']}"
    assert server.ask("GET", path) == made == server.ask("GET", f"/secrets/KEY?projectId={project}")
    assert server.ask("GET", f"/secrets?projectId={project}")["list"] == [made]
    assert server.ask("PUT", path, json={"value": "second-value"}) == {"name": "KEY", "created": False}
    stranger = server.user("secret-stranger", "user", [])
    viewer = server.user("secret-viewer", "viewer", [project])
    for method, more in (("GET", {}), ("PUT", {"json": {"value": "stolen"}}), ("DELETE", {})):
        assert code(server, method, path, stranger, **more) == (404, "SECRET_NOT_FOUND"), method
        assert code(server, method, path, viewer, **more)[0] == 403, method
        assert code(server, method, f"/secrets/{UNKNOWN}", **more) == (404, "SECRET_NOT_FOUND"), method
    assert server.ask("DELETE", path) == {"name": "KEY"}
    assert code(server, "GET", path) == (404, "SECRET_NOT_FOUND")
    assert code(server, "GET", f"/secrets/KEY?projectId={project}") == (404, "SECRET_NOT_FOUND")


def test_scopes_that_are_refused(server: Server) -> None:
    project, other = server.project("secret-scopes"), server.project("secret-other")
    foreign = server.pipeline("foreign", spec_for("nobody"), project=other)
    given = {"name": "KEY", "value": "some-value", "projectId": project}
    for scope, scope_id, expected in (
        ("environment", "production", (400, "VALIDATION_FAILED")),
        ("pipeline", "", (400, "VALIDATION_FAILED")),
        ("pipeline", UNKNOWN, (404, "PIPELINE_NOT_FOUND")),
        ("pipeline", foreign, (404, "PIPELINE_NOT_FOUND")),
        ("project", other, (400, "VALIDATION_FAILED")),
        ("galaxy", "", (400, "VALIDATION_FAILED")),
    ):
        body = {**given, "scope": scope, "scopeId": scope_id}
        assert code(server, "POST", "/secrets", json=body) == expected, scope
    assert server.ask("GET", f"/secrets?projectId={project}")["total"] == 0


async def test_a_step_gets_its_pipelines_secret_before_the_projects(server: Server) -> None:
    project = server.project("secret-layers")
    spec = spec_for("layers")
    spec["jobs"][0]["env"] = {"A": "${{ secrets.BOTH }}"}
    server.ask("PUT", "/secrets/BOTH", json={"value": "value-of-the-project", "projectId": project})
    mine = server.pipeline("layers", spec, project=project)
    other = server.pipeline("layers-other", spec, project=project)
    body = {"value": "value-of-the-pipeline", "projectId": project, "scope": "pipeline", "scopeId": mine}
    assert server.ask("PUT", "/secrets/BOTH", json=body)["created"] is True
    assert server.ask("GET", f"/secrets?projectId={project}")["total"] == 2
    async with await registered(server, "layers") as agent:
        for pipeline, expected in ((mine, "value-of-the-pipeline"), (other, "value-of-the-project")):
            run_id = server.trigger(pipeline)
            task = await agent.task()
            assert dict(task.step.secrets) == {"BOTH": expected}
            await agent.ack(task)
            await agent.lines(task.step.step_run_id, [f"it is {expected}"])
            await agent.finish(task)
            log = server.call("GET", f"/workflow-runs/{run_id}/logs").text
            assert "it is ***" in log
            assert expected not in log
    only = {**body, "value": "only-of-one"}
    server.ask("PUT", "/secrets/ONLY", json=only)
    spec["jobs"][0]["env"] = {"A": "${{ secrets.ONLY }}"}
    for pipeline, status in ((mine, 200), (other, 400)):
        head = server.call("POST", f"/pipelines/{pipeline}/spec/save", json={"spec": spec})
        assert head.status_code < 300, head.text
        started = server.call("POST", f"/pipelines/{pipeline}/trigger", json={})
        assert (started.status_code < 300) == (status == 200), started.text
