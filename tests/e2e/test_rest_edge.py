"""REST at its edges: errors, hostile input, paging, idempotency keys."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pilothouse.client import PilotClient
from support.bodies import UNKNOWN, enveloped_error, plain_error, success
from support.server import PASSWORD, Server, running, spec_for
from support.waiting import PATIENCE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rest_edge"), max_blob=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/openapi.json").json()
    return found


def test_errors_of_the_edge(server: Server) -> None:
    plain_error(server.call("GET", "/nowhere"), 404, "NOT_FOUND")
    plain_error(server.call("GET", "/nowhere", None), 404, "NOT_FOUND")
    enveloped_error(server.call("GET", "/pipelines/a/b/c/d"), 404)
    enveloped_error(server.call("GET", "/secrets/a/b/c"), 404)
    answer = server.call("PATCH", "/tokens")
    plain_error(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, POST"
    assert server.call("POST", f"/users/{UNKNOWN}").headers["allow"] == "DELETE, GET, PATCH, PUT"
    assert server.call("PUT", "/healthz").headers["allow"] == "GET, HEAD"
    for path in ("/pipelines/", "/projects/"):
        enveloped_error(server.call("GET", path), 404)
    plain_error(server.call("POST", "/tokens/", json={"name": "x"}), 404, "NOT_FOUND")
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
    for path in (
        "/%00",
        "/workflow-runs/%00",
        "/pipelines/%ff%fe",
        "/agents/" + "a" * 256,
        "/users/%0d%0aX:1",
    ):
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
def test_nothing_is_made_in_a_project_that_does_not_exist(
    server: Server, method: str, path: str, body: Any
) -> None:
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


def test_what_the_server_keeps_is_for_its_own_eyes(server: Server) -> None:
    """Whatever the directory above allows."""
    server.ask("POST", "/blobs", content=b"a checkout")
    kept = [server.data_dir / "blobs", *server.data_dir.glob("pilothouse.db*")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept), kept


def test_an_upload_may_be_repeated_with_its_key(server: Server) -> None:
    def files() -> set[str]:
        return {path.name for path in (server.data_dir / "blobs").iterdir()}

    key = {"Idempotency-Key": "upload-1"}
    made = server.ask("POST", "/blobs", content=b"the same bytes", headers=key)
    before = files()
    again = server.call("POST", "/blobs", content=b"the same bytes", headers=key)
    assert (again.status_code, again.json()) == (201, made)
    assert again.headers["idempotency-replayed"] == "true"
    other = server.call("POST", "/blobs", content=b"other bytes", headers=key)
    plain_error(other, 409, "IDEMPOTENCY_KEY_REUSED")
    assert files() == before, "what nobody was told of is not kept"
    assert server.call("GET", f"/blobs/{made['id']}").content == b"the same bytes"


def test_an_upload_broken_off_leaves_nothing(server: Server) -> None:
    before = set((server.data_dir / "blobs").iterdir())
    with socket.create_connection(("127.0.0.1", server.settings["port"])) as sock:
        head = f"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin}\r\n"
        sock.sendall(f"{head}Content-Length: 500000\r\n\r\n".encode() + b"x" * 1000)
    end = time.monotonic() + PATIENCE
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


@pytest.mark.parametrize("path", ["/users", "/agents", "/tokens", "/audit", "/workflow-runs"])
def test_paging_of_the_streamspace_page(server: Server, path: str) -> None:
    for query in (
        "page=0",
        "page=-1",
        "limit=0",
        "limit=101",
        "limit=x",
        "page=99999999999999999999",
        "page=",
    ):
        plain_error(server.call("GET", f"{path}?{query}"), 400, "INVALID_PARAMETER")
    far = server.ask("GET", f"{path}?page=1000000&limit=100")
    (items,) = [value for key, value in far.items() if key != "pagination"]
    assert items == []
    assert far["pagination"]["page"] == 1_000_000
    default = server.ask("GET", path)["pagination"]
    assert (default["page"], default["limit"]) == (1, 20)
    assert default["total_pages"] == -(-default["total"] // 20)


@pytest.mark.parametrize("path", ["/pipelines", "/projects", "/roles", "/secrets"])
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
        "user": (
            "/users",
            {"username": "once", "password": PASSWORD},
            {"username": "twice", "password": PASSWORD},
        ),
    }[what]
    key = {"Idempotency-Key": f"key-{what}"}
    first = server.call("POST", path, json=body, headers=key)
    assert first.status_code == 201
    again = server.call(
        "POST",
        path,
        content=json.dumps(body, indent=4).encode(),
        headers=key | {"Content-Type": "application/json"},
    )
    assert (again.status_code, again.json()) == (201, repeated(first.json()))
    different = server.call("POST", path, json=other, headers=key)
    assert different.status_code == 409
    assert "IDEMPOTENCY_KEY_REUSED" in different.text
    for bad in ("", "x" * 300):
        assert server.call("POST", path, json=other, headers={"Idempotency-Key": bad}).status_code == 400


def repeated(body: dict[str, Any]) -> dict[str, Any]:
    """The answer as it is repeated: without the secret that it held."""
    if "token" not in body:
        return body
    return {**{key: value for key, value in body.items() if key != "token"}, "secret_omitted": True}


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
        assert len({json.dumps(repeated(a.json()), sort_keys=True) for a in answers}) == 1, path


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
    # These make and start nothing; an artifact is announced again with the same content to go on with its upload.
    neither = ("/auth/", "/validate", "/password", "/step-runs/{step_run_id}/artifacts")
    lacking = [
        path
        for path, operations in document["paths"].items()
        if "post" in operations
        and not any(part in path for part in neither)
        and "idempotency-key" not in {p["name"].lower() for p in operations["post"].get("parameters", [])}
    ]
    assert lacking == []


async def test_secrets_in_pages(server: Server) -> None:
    project = server.project("secretive")
    began, names = int(time.time()), [f"N{n:03}" for n in range(101)]
    for name in reversed(names):
        server.ask("PUT", f"/secrets/{name}", json={"value": "v", "projectId": project})
    last = server.ask("GET", f"/secrets?projectId={project}&page=2&pageSize=100")
    assert (last["total"], last["page"], last["pageSize"]) == (101, 2, 100)
    (secret,) = last["list"]
    assert secret["name"] == names[-1]
    assert all(began <= secret[key] <= time.time() for key in ("createdAt", "updatedAt"))
    async with PilotClient(server.url, server.admin) as client:
        assert [s["name"] for s in await client.secrets.all(project)] == names


def test_unknown_members(server: Server) -> None:
    project = server.project("lonely")
    for method in ("PUT", "DELETE"):
        found = enveloped_error(server.call(method, f"/projects/{project}/members/nope"), 404)
        assert found["errorCode"] == "USER_NOT_FOUND"
    found = enveloped_error(server.call("POST", "/projects", json={"name": "l2", "members": ["nope"]}), 400)
    assert found["details"]["field"] == "members"


def test_what_is_not_ones_own_is_not_found(server: Server) -> None:
    project, stranger = server.project("closed"), server.user("stranger")
    found = enveloped_error(server.call("GET", f"/projects/{project}", stranger), 404)
    assert found["errorCode"] == "PROJECT_NOT_FOUND"
    server.ask("PUT", f"/projects/{project}/members/stranger")
    assert server.ask("GET", f"/projects/{project}", stranger)["name"] == "closed"


@pytest.mark.parametrize("query", ["status=bogus", "kind=bogus", "status=3", "status="])
def test_filters_of_runs_that_are_none(server: Server, query: str) -> None:
    found = plain_error(server.call("GET", f"/workflow-runs?{query}"), 400, "INVALID_PARAMETER")
    assert ("'pipeline'" if "kind" in query else "'timed_out'") in found["message"]


def test_values_have_their_types(server: Server, pipeline: str) -> None:
    """No text is taken for a number, no number for a boolean."""
    server.user("typed")
    for method, path, body in [
        ("POST", "/tokens", {"name": "x", "expires_in": "60"}),
        ("POST", "/tokens", {"name": "x", "role": ["user"]}),
        ("POST", "/registration-tokens", {"max_uses": "2"}),
        ("POST", "/registration-tokens", {"max_uses": True}),
        ("PUT", f"/pipelines/{pipeline}", {"isEnabled": "1"}),
        ("PUT", f"/pipelines/{pipeline}", {"isEnabled": "true"}),
        ("PUT", f"/pipelines/{pipeline}", {"isEnabled": True}),
        ("PATCH", "/users/typed", {"active": "true"}),
        ("PATCH", "/users/typed", {"active": 1}),
        ("POST", "/tokens", {"name": "x", "further": [{"deep": float("nan")}]}),
        ("PUT", "/secrets/TYPED", {"value": "x", "further": float("inf")}),
    ]:
        answer = server.call(
            method, path, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, "VALIDATION_FAILED" in answer.text) == (400, True), (path, body)
    assert server.ask("PATCH", "/users/typed", json={"role": "viewer", "active": True})["role"] == "viewer"


@pytest.mark.parametrize(
    "value",
    ["", "x" * 65_537, "ü" * 40_000, "\n".join(map(str, range(1001))), "ab\ud800cd"],
    ids=["empty", "long", "long in bytes", "lines", "surrogate"],
)
def test_secrets_out_of_bounds(server: Server, value: str) -> None:
    answer = server.call(
        "PUT",
        "/secrets/BOUNDED",
        content=json.dumps({"value": value}),
        headers={"Content-Type": "application/json"},
    )
    assert enveloped_error(answer, 400)["errorCode"] == "VALIDATION_FAILED"
    assert "BOUNDED" not in server.call("GET", "/secrets").text


def test_bodies_that_are_not_read(server: Server) -> None:
    """The error names the header or the text."""
    for kind in ({}, {"Content-Type": "text/plain"}):
        answer = server.call("POST", "/tokens", content=b'{"name": "x"}', headers=kind)
        found = plain_error(answer, 400, "VALIDATION_FAILED")
        assert "Content-Type: application/json" in found["message"]
        assert found["details"]["field"] == "Content-Type"
    answer = server.call("POST", "/tokens", content=b"{", headers={"Content-Type": "application/json"})
    found = plain_error(answer, 400, "VALIDATION_FAILED")
    assert (found["message"], found["details"]["field"]) == ("The body is not valid JSON", "body")


def test_bodies_that_may_be_left_out(server: Server, pipeline: str) -> None:
    for path in (f"/pipelines/{pipeline}/trigger", "/registration-tokens"):
        answer = server.call("POST", path, headers={"Idempotency-Key": "no-body"})
        assert answer.status_code == 201, answer.text
        again = server.call("POST", path, headers={"Idempotency-Key": "no-body"})
        assert again.json() == repeated(answer.json())


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_by_head(server: Server, path: str) -> None:
    asked, shown = server.call("HEAD", path, None), server.call("GET", path, None)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == shown.headers["content-length"]


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
