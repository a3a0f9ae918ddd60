"""Quotas: each refuses what exceeds it, with the use and the setting, and lets others go on."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pilothouse.access.errors import Refusal
from pilothouse.access.quotas import Quotas
from pilothouse.blobs.store import Use
from pilothouse.blobs.uploads import MAX_AT_ONCE, Uploads
from support.server import Server, running, spec_for
from support.waiting import eventually

SETTINGS = {
    "quota_blobs": 10_000,
    "quota_blob_count": 6,
    "quota_uploads": 5_000,
    "quota_pipelines": 3,
    "quota_runs": 2,
    "quota_tokens": 3,
    "quota_projects": 12,
    "quota_registration_tokens": 3,
    "max_blob": 4_000,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("quotas"), **SETTINGS) as server:
        yield server


def refused(answer: httpx.Response, setting: str, used: int) -> None:
    body = answer.json()
    assert answer.status_code == 409, answer.text
    assert (body.get("errorCode") or body["code"]) == "QUOTA_EXCEEDED"
    limit, variable = SETTINGS[setting], f"PILOT_{setting.upper()}"
    message = body.get("errMsg") or body["message"]
    assert f"{used} in use, at most {limit} are allowed ({variable})" in message
    assert body["details"] == {
        "quota": setting.removeprefix("quota_"),
        "used": used,
        "limit": limit,
        "setting": variable,
    }


def upload(server: Server, project: str, size: int, token: str = "admin", **more: Any) -> httpx.Response:
    return server.call("POST", f"/blobs?project={project}", token, content=b"x" * size, **more)


def test_pipelines(server: Server) -> None:
    project, other = server.project("many pipelines"), server.project("another")
    ids = [server.pipeline(f"p{n}", spec_for("nobody"), project=project) for n in range(3)]
    create = {"name": "p3", "projectId": project}
    refused(server.call("POST", "/pipelines", json=create), "quota_pipelines", 3)
    server.pipeline("p3", spec_for("nobody"), project=other)
    server.ask("DELETE", f"/pipelines/{ids[0]}")
    server.ask("POST", "/pipelines", json=create)


def test_unfinished_runs(server: Server) -> None:
    """Also those that a rerun starts; runs that have ended do not count."""
    project, other = server.project("many runs"), server.project("few runs")
    pipeline_id = server.pipeline("runs", spec_for("nobody"), project=project)
    path = f"/pipelines/{pipeline_id}/trigger"
    first, second = server.trigger(pipeline_id), server.trigger(pipeline_id)
    refused(server.call("POST", path, json={}), "quota_runs", 2)
    server.trigger(server.pipeline("runs", spec_for("nobody"), project=other))
    server.ask("POST", f"/workflow-runs/{first}/cancel", json={"force": True})
    third = server.trigger(pipeline_id)
    refused(server.call("POST", f"/workflow-runs/{first}/rerun", json={}), "quota_runs", 2)
    for run_id in (second, third):
        server.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"force": True})
    assert server.call("POST", f"/workflow-runs/{first}/rerun", json={}).status_code == 201


def test_a_child_run_beyond_the_quota_fails_its_gate(server: Server) -> None:
    project = server.project("children")
    server.pipeline("child", spec_for("nobody"), project=project)
    gate = {"name": "start", "uses": "pipeline", "action": "run", "args": {"pipeline": "child"}}
    parent = server.pipeline("parent", {"jobs": [{"name": "a", "steps": [gate]}]}, project=project)
    server.trigger(server.pipeline("filler", spec_for("nobody"), project=project))
    run = server.ask("GET", f"/workflow-runs/{server.trigger(parent)}")
    assert run["status"] == "failed"
    assert "PILOT_QUOTA_RUNS" in run["jobs"][0]["steps"][0]["reason"]


def test_api_tokens(server: Server) -> None:
    mine = server.user("many-tokens")
    made = [server.ask("POST", "/tokens", mine, json={"name": f"t{n}"}) for n in range(3)]
    refused(server.call("POST", "/tokens", mine, json={"name": "t3"}), "quota_tokens", 3)
    server.ask("POST", "/tokens", server.user("few-tokens"), json={"name": "t"})
    server.ask("DELETE", f"/tokens/{made[0]['id']}", mine)
    server.ask("POST", "/tokens", mine, json={"name": "t3"})


def test_registration_tokens(server: Server) -> None:
    """Revoked ones do not count; the list has pages."""
    made = [server.ask("POST", "/registration-tokens", json={"description": f"t{n}"})["id"] for n in range(3)]
    refused(server.call("POST", "/registration-tokens", json={}), "quota_registration_tokens", 3)
    server.ask("DELETE", f"/registration-tokens/{made[0]}")
    made.append(server.ask("POST", "/registration-tokens", json={})["id"])
    pages = [server.ask("GET", f"/registration-tokens?limit=3&page={page}") for page in (1, 2)]
    assert [token["id"] for page in pages for token in page["registration_tokens"]] == made[::-1]
    assert pages[1]["pagination"] == {"page": 2, "limit": 3, "total": 4, "total_pages": 2}


def test_uploads_that_no_run_has_used(server: Server) -> None:
    project = server.project("unused")
    mine = server.user("uploader", "user", [project])
    ids = [upload(server, project, 2_000, mine).json()["id"] for _ in range(2)]
    refused(upload(server, project, 1_001, mine), "quota_uploads", 4_000)
    assert upload(server, project, 1_000).status_code == 201, "another user"
    pipeline_id = server.pipeline("uses", spec_for("nobody"), project=project)
    server.trigger(pipeline_id, mine, checkout=ids[0])
    assert upload(server, project, 3_000, mine).status_code == 201


def test_the_bytes_and_number_of_a_projects_uploads(server: Server) -> None:
    project = server.project("stored")
    users = [server.user(f"storing-{n}", "user", [project]) for n in range(3)]
    for user in users[:2]:
        assert upload(server, project, 4_000, user).status_code == 201
    refused(upload(server, project, 2_001, users[2]), "quota_blobs", 8_000)
    for _ in range(4):
        assert upload(server, project, 1, users[2]).status_code == 201
    refused(upload(server, project, 1, users[2]), "quota_blob_count", 6)


async def test_uploads_under_way_count_before_their_bodies_are_received(server: Server) -> None:
    """Refused by its head alone: the body is never sent."""
    project = server.project("under way")
    mine = server.user("slow-uploader", "user", [project])
    stalled = begun(server, project, mine, 4_000)
    try:
        parts = server.data_dir / "blobs"
        await eventually(lambda: list(parts.glob("*.part")))
        other = begun(server, project, mine, 1_001)
        try:
            answer = other.getresponse()
            body = json.loads(answer.read())
            assert (answer.status, body["code"], body["details"]["used"]) == (409, "QUOTA_EXCEEDED", 4_000)
        finally:
            other.close()
        assert server.ask("POST", "/tokens", json={"name": "meanwhile"})["token"], "the writer is free"
        chunked = server.call(
            "POST", f"/blobs?project={project}", mine, content=iter([b"x"]), headers={"X-Other": "1"}
        )
        assert chunked.status_code == 409, "without a length it counts as the largest"
    finally:
        stalled.close()
    await eventually(lambda: not list(parts.glob("*.part")))
    assert upload(server, project, 4_000, mine).status_code == 201


def begun(server: Server, project: str, token: str, size: int) -> http.client.HTTPConnection:
    """A connection on which the head of an upload was sent, and none of its body."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", f"/api/v1/blobs?project={project}")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    return connection


def test_uploads_of_one_caller_at_once() -> None:
    uploads, use = Uploads(Quotas()), Use(0, 0, 0)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_AT_ONCE):
            stack.enter_context(uploads.admitted("p", "alice", use, 1))
        with pytest.raises(Refusal) as caught, uploads.admitted("p", "alice", use, 1):
            pass
        assert (caught.value.code, caught.value.headers) == ("CALLER_QUEUE_FULL", {"Retry-After": "1"})
        with uploads.admitted("p", "bob", use, 1):
            pass
    with uploads.admitted("p", "alice", use, 1):
        pass
    assert vars(uploads)["_of_user"] == {}, "nothing is left of uploads that have ended"


def test_projects(server: Server) -> None:
    """Last, since no project can be deleted."""
    for number in range(13):
        answer = server.call("POST", "/projects", json={"name": f"one more {number}"})
        if answer.status_code != 201:
            break
    refused(answer, "quota_projects", 12)


def test_what_a_stopped_server_left_is_removed(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        kept = server.call("POST", "/blobs", content=b"kept").json()["id"]
        server.kill9()
        blobs = server.data_dir / "blobs"
        (blobs / "01a218e5-66e4-7687-a6c4-f8f018a00291.part").write_bytes(b"half")
        (blobs / "01a218e5-66e4-7687-a6c4-f8f018a00292").write_bytes(b"never recorded")
        server.restart()
        assert server.call("GET", f"/blobs/{kept}").content == b"kept"
        server.stop()
        assert [path.name for path in blobs.iterdir()] == [kept]
