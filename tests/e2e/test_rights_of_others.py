"""What belongs to others: not seen, not changed, not even known to exist."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest

from support.answers import bodies
from support.server import PASSWORD, Server, running, spec_for
from support.watchers import closing, sse, websocket
from support.world import UNKNOWN, World, make_world, routes_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("others"), sse_keepalive=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    return make_world(server)


@pytest.fixture(scope="module")
def routes(server: Server) -> list[tuple[str, str, str]]:
    return routes_of(server)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "POST", "DELETE"])
def test_anothers_things_are_as_if_they_were_not_there(
    world: World, routes: list[tuple[str, str, str]], method: str
) -> None:
    """404, in the very words that are used for what does not exist; and nothing is changed."""
    wrong = []
    for operation, template, action in routes:
        names = set(re.findall(r"{(\w+)}", template))
        if operation != method or not names & {"pipeline_id", "run_id", "blob_id"}:
            continue
        answers = []
        for real in (True, False):
            path = world.paths(template, real=real)
            answer = world.server.call(
                method,
                path,
                world.tokens["outsider"],
                json=bodies().get((method, template)),
            )
            hidden = re.sub("|".join([UNKNOWN, *world.real.values()]), "ID", _shown(answer))
            answers.append((answer.status_code, hidden))
        if answers[0] != answers[1] or answers[0][0] != 404:
            wrong.append((method, template, action, answers))
    assert wrong == []
    shown = world.server.ask("GET", f"/pipelines/{world.real['pipeline_id']}")
    assert shown["name"] == "walked"
    assert world.server.ask("GET", f"/workflow-runs/{world.real['run_id']}")["status"] == "running"


def _shown(answer: httpx.Response) -> str:
    body = answer.json()
    for varying in ("timestamp", "request_id", "requestId"):
        body.pop(varying, None)
    return json.dumps(body, sort_keys=True)


def test_projects_do_not_tell_outsiders_that_they_exist(world: World) -> None:
    server, outsider = world.server, world.tokens["outsider"]
    for path in ("/projects/{}", "/secrets?projectId={}", "/pipelines?projectId={}"):
        answers = [server.call("GET", path.format(id), outsider) for id in (world.project, UNKNOWN)]
        assert answers[0].status_code == answers[1].status_code, path
        masked = [_shown(a).replace(world.project, "ID").replace(UNKNOWN, "ID") for a in answers]
        assert masked[0] == masked[1], path
    for method, path, body in [
        ("POST", "/pipelines", {"name": "mine", "projectId": "{}"}),
        ("PUT", "/secrets/MINE", {"value": "x", "projectId": "{}"}),
        ("DELETE", "/secrets/SECRET?projectId={}", None),
        ("POST", "/blobs?project={}", {}),
    ]:
        answers = []
        for id in (world.project, UNKNOWN):
            given = None if body is None else json.loads(json.dumps(body).replace("{}", id) if body else "{}")
            answers.append(server.call(method, path.replace("{}", id), outsider, json=given))
        assert [a.status_code for a in answers] in ([403, 403], [404, 404]), path
    assert "SECRET" in str(server.ask("GET", f"/secrets?projectId={world.project}"))


def test_lists_show_only_what_is_ones_own(world: World) -> None:
    server = world.server
    for actor, sees in [
        ("viewer", True),
        ("user", True),
        ("outsider", False),
        ("operator", True),
        ("admin", True),
    ]:
        token = world.tokens[actor]
        assert (world.real["pipeline_id"] in server.call("GET", "/pipelines", token).text) is sees, actor
        assert (world.real["run_id"] in server.call("GET", "/workflow-runs", token).text) is sees, actor
        assert (world.project in server.call("GET", "/projects", token).text) is sees, actor


def test_a_blob_of_another_project_is_no_checkout(world: World) -> None:
    server, outsider = world.server, world.tokens["outsider"]
    project = server.project("own", ["outsider"])
    pipeline_id = server.pipeline("own", spec_for("x"), project=project)
    answers = [
        server.call("POST", f"/pipelines/{pipeline_id}/trigger", outsider, json={"checkout": blob})
        for blob in (world.real["blob_id"], UNKNOWN)
    ]
    assert [a.status_code for a in answers] == [404, 404]


def test_an_agent_uploads_only_for_work_that_it_holds(world: World) -> None:
    """``blob.write`` of an agent is for the work it holds (identity.model.AGENT_ACTIONS); it holds none."""
    path = f"/blobs?project={world.project}"
    answer = world.server.call("POST", path, world.tokens["agent"], content=b"planted")
    assert answer.status_code in (403, 404)
    for id in (world.real["blob_id"], UNKNOWN):
        assert world.server.call("GET", f"/blobs/{id}", world.tokens["agent"]).status_code == 404


def test_a_user_cannot_raise_himself(world: World) -> None:
    server = world.server
    wide = server.call("POST", "/tokens", world.tokens["user"], json={"name": "wide", "role": "admin"})
    if wide.status_code == 201:
        assert server.call("GET", "/users", wide.json()["token"]).status_code == 403
    narrow = world.tokens["admin as viewer"]
    made = server.call("POST", "/tokens", narrow, json={"name": "wider"})
    if made.status_code == 201:  # a narrow token makes no wider one
        assert server.call("GET", "/users", made.json()["token"]).status_code == 403
    me = server.ask("GET", "/auth/me", world.tokens["user"])
    assert (
        server.call("PATCH", f"/users/{me['id']}", world.tokens["user"], json={"role": "admin"}).status_code
        == 403
    )


def test_tokens_of_others(world: World) -> None:
    server = world.server
    theirs = server.ask("POST", "/tokens", world.tokens["operator"], json={"name": "theirs"})
    for actor in ("viewer", "user", "operator"):
        token = world.tokens[actor]
        listed = server.call("GET", "/tokens?user=admin", token)
        assert listed.status_code == 403 or listed.json()["tokens"] == []
    for id in (theirs["id"], UNKNOWN):
        assert server.call("DELETE", f"/tokens/{id}", world.tokens["user"]).status_code == 404
    assert server.call("GET", "/auth/me", theirs["token"]).status_code == 200
    assert server.call("DELETE", f"/tokens/{theirs['id']}").status_code == 204  # an admin may
    assert server.call("GET", "/auth/me", theirs["token"]).status_code == 401


def test_the_secret_never_comes_out(world: World) -> None:
    server = world.server
    for path in (
        f"/secrets?projectId={world.project}",
        "/audit?limit=100",
        f"/pipelines/{world.real['pipeline_id']}/spec",
    ):
        assert "s3cr3t-value" not in server.call("GET", path).text
    assert "s3cr3t-value" not in server.log()
    assert PASSWORD not in server.log()
    assert all(token not in server.log() for token in world.tokens.values() if token)


@pytest.mark.parametrize("actor", ["viewer", "user", "operator", "admin"])
async def test_sockets_open_for_those_in_the_project(world: World, actor: str) -> None:
    url = f"{world.server.ws}/api/v1/workflow-runs/{world.real['run_id']}/stream"
    async with websocket(url, world.tokens[actor]) as ws:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ws.recv()  # no entries yet, but the request is accepted


@pytest.mark.parametrize("actor", ["outsider", "agent", "admin as viewer"])
async def test_sockets_are_closed_to_others(world: World, actor: str) -> None:
    for id in (world.real["run_id"], UNKNOWN):
        url = f"{world.server.ws}/api/v1/workflow-runs/{id}/stream"
        async with websocket(url, world.tokens[actor]) as ws:
            code, said = await closing(ws)
            assert (code, said[0]["code"]) == (4404, "not_found")
            assert said[0]["message"] == f"No run with ID '{id}' exists"
    view = world.server.ask("GET", f"/workflow-runs/{world.real['run_id']}")
    attempt = view["jobs"][0]["steps"][0]["attempts"][0]["step_run_id"]
    said = []
    for step_run_id in (attempt, UNKNOWN):
        params = {
            "pipelineId": world.real["pipeline_id"],
            "jobId": view["jobs"][0]["id"],
            "stepRunId": step_run_id,
        }
        async with websocket(f"{world.server.ws}/api/v1/ws", world.tokens[actor]) as ws:
            for channel in ("channel_log", "channel_status"):
                await ws.send(json.dumps({"channel": channel, "params": params}))
                answer = json.loads(await ws.recv())
                assert answer["type"] == "error"
                said.append(answer["error"].replace(step_run_id, "ID"))
    assert len(set(said)) == 1


async def test_the_journal_shows_only_ones_own(world: World) -> None:
    server, run = world.server, f"run/{world.real['run_id']}"
    answers = []
    for stream in (run, f"run/{UNKNOWN}"):
        async with sse(f"{server.url}/api/v1/events?stream={stream}", world.tokens["outsider"]) as response:
            answers.append((response.status_code, await _for_a_while(response)))
    assert answers[0][0] == answers[1][0]
    assert "run.created" not in answers[0][1]
    async with sse(f"{server.url}/api/v1/events", world.tokens["outsider"]) as response:
        watching = asyncio.create_task(_for_a_while(response, 5))
        run_id = await asyncio.to_thread(server.trigger, world.real["pipeline_id"])
        server.ask(
            "POST", "/users", json={"username": "private.name", "password": PASSWORD, "role": "viewer"}
        )
        seen = await watching
    assert run_id not in seen
    assert "private.name" not in seen
    async with sse(f"{server.url}/api/v1/events?stream={run}", world.tokens["viewer"]) as response:
        assert "run.created" in await _for_a_while(response)


async def _for_a_while(response: httpx.Response, keepalives: int = 2) -> str:
    seen = ""
    async for chunk in response.aiter_raw():
        seen += chunk.decode()
        if seen.count(":keepalive") >= keepalives:
            break
    return seen


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
