"""Who may do what: every route and every RPC, asked by everybody.

What must come out follows from the one table of rights, ``identity.model.ACTIONS``; nothing here is a list of
routes, so that a route added tomorrow is walked tomorrow.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilothouse.identity.model import ACTIONS, AGENT_ACTIONS, Role
from pilothouse.identity.web import required_actions
from pilothouse.server.app import build_app
from pilothouse.server.graph import build
from pilothouse.server.settings import Settings
from support.fake_agent import FakeAgent, registered
from support.server import PASSWORD, Server, running, spec_for
from support.watchers import closing, sse, websocket
from support.wire_table import table

PUBLIC = "public"
UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
SOCKETS = {
    "/api/v1/workflow-runs/{run_id}/stream": "run.read",
    "/api/v1/ws": "run.read",
}
"""WebSockets say after the accept who may use them; each is asked by name below."""

DOCUMENTS = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/asyncapi.json"}
RPCS = {
    "agent.v1.AgentService": "agent.self",
    "gateway.v1.GatewayService": "agent.self",
    "grpc.health.v1.Health": PUBLIC,
    "grpc.reflection.v1alpha.ServerReflection": PUBLIC,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rights"), sse_keepalive=0.2) as server:
        yield server


@dataclass
class World:
    """Actors by name with their tokens, and a project with one of everything in it."""

    server: Server
    tokens: dict[str, str | None]
    project: str
    real: dict[str, str]

    def allowed(self, actor: str, action: str) -> bool:
        """What the table says."""
        if action == PUBLIC:
            return True
        if actor == "nobody":
            return False
        if actor == "agent":
            return action in AGENT_ACTIONS
        role = {"outsider": "user", "admin as viewer": "viewer"}.get(actor, actor)
        return Role(role) in ACTIONS.get(action, frozenset())

    def paths(self, template: str, *, real: bool) -> str:
        """The path with ids in it: of what is there, or of nothing."""
        named = {**dict.fromkeys(re.findall(r"{(\w+)", template), UNKNOWN), "project": self.project}
        if real:
            named |= self.real
        return re.sub(r"{(\w+)(:\w+)?}", lambda match: named[match[1]], template)


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    project = server.project("walked")
    tokens: dict[str, str | None] = {"nobody": None, "admin": server.admin}
    for role in ("viewer", "user", "operator"):
        tokens[role] = server.user(role, role, [project])
    server.project("elsewhere")
    tokens["outsider"] = server.user("outsider", "user", [])
    narrow = server.ask("POST", "/tokens", json={"name": "narrow", "role": "viewer"})
    tokens["admin as viewer"] = narrow["token"]
    tokens["agent"] = asyncio.run(_register(server))
    pipeline_id = server.pipeline("walked", spec_for("nobody"), project=project)
    run_id = server.trigger(pipeline_id)
    blob = server.call("POST", f"/blobs?project={project}", content=b"bytes").json()["id"]
    server.ask("PUT", "/secrets/SECRET", json={"value": "s3cr3t-value", "projectId": project})
    real = {"pipeline_id": pipeline_id, "run_id": run_id, "blob_id": blob, "name": "SECRET"}
    real |= {"agent_id": "walker", "user": "viewer"}
    return World(server, tokens, project, real)


async def _register(server: Server) -> str:
    async with FakeAgent(server.grpc, "walker") as agent:
        await agent.register(server.registration_token())
        return agent.token


@pytest.fixture(scope="module")
def routes(server: Server) -> list[tuple[str, str, str]]:
    """Method, path and required action of every operation of the live document."""
    document = httpx.get(f"{server.url}/openapi.json").json()
    return [
        (method.upper(), path, operation.get("x-required-action", ""))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


# -- HTTP -----------------------------------------------------------------------------------------------


async def test_every_route_says_who_may_use_it(tmp_path: Path, routes: list[tuple[str, str, str]]) -> None:
    graph = build(Settings(data_dir=tmp_path / "data"))
    try:
        app = build_app(graph, "project")
        declared = [r for r in required_actions(app) if r[1] not in DOCUMENTS and r[0] != "HEAD"]
    finally:
        graph.journal.feed.close()
        graph.identity.close()
        graph.database.close()
    http = {(method, path): action for method, path, action in declared if method != "WEBSOCKET"}
    assert [route for route, action in http.items() if action is None] == []
    assert [a for a in http.values() if a != PUBLIC and a not in ACTIONS and a not in AGENT_ACTIONS] == []
    assert {path for method, path, _ in declared if method == "WEBSOCKET"} == set(SOCKETS)
    # Nothing is served that the document hides.
    assert set(http) == {(method, path) for method, path, _ in routes}


def _ask(world: World, actor: str, token: str | None, method: str, path: str) -> httpx.Response:
    if path.endswith("/auth/logout") and token is not None and actor not in ("nobody", "agent"):
        token = world.server.ask("POST", "/tokens", token, json={"name": "to be ended"})["token"]
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    content = None if method in ("GET", "DELETE") else b"{}"
    headers |= {"Content-Type": "application/json"} if content else {}
    with world.server.http.stream(
        method, world.server.url + path, headers=headers, content=content
    ) as answer:
        if "event-stream" not in answer.headers.get("content-type", ""):
            answer.read()  # a stream may have no end
        return answer


def _code(answer: httpx.Response) -> str:
    body = answer.json()
    return str(body.get("errorCode") or body["code"])


@pytest.mark.parametrize(
    "actor", ["nobody", "viewer", "user", "outsider", "operator", "admin", "admin as viewer", "agent"]
)
def test_every_route_keeps_to_the_table(world: World, routes: list[tuple[str, str, str]], actor: str) -> None:
    """The allowed ask for what is not there, so that nothing is destroyed; the others for what is."""
    wrong, token = [], world.tokens[actor]
    for method, template, action in routes:
        allowed = world.allowed(actor, action)
        path = world.paths(template, real=not allowed)
        answer = _ask(world, actor, token, method, path)
        where = f"{method} {path} ({action}): {answer.status_code}"
        if allowed:
            # An admin's token that is limited to a viewer's rights is at home where the admin is a member: nowhere.
            in_no_project = actor in ("outsider", "admin as viewer") and "{project}" in template
            if answer.status_code in (401, 403) and not in_no_project and not _belongs_elsewhere(answer, actor):
                wrong.append(where)
        elif actor == "nobody":
            if answer.status_code != 401 or _code(answer) != "AUTH_TOKEN_MISSING":
                wrong.append(where)
        elif answer.status_code != 403 or _code(answer) != "AUTH_INSUFFICIENT_PERMISSIONS":
            wrong.append(where)
        if answer.status_code >= 500:
            wrong.append(where)
    assert wrong == []


def _belongs_elsewhere(answer: httpx.Response, actor: str) -> bool:
    """Without a project in the request the default one is meant; these actors are in another or none."""
    homes = ("viewer", "user", "outsider", "admin as viewer")
    return actor in homes and "in this project" in answer.text


def test_wrong_tokens_open_nothing(world: World, routes: list[tuple[str, str, str]]) -> None:
    server, wrong = world.server, []
    brief = server.ask("POST", "/tokens", json={"name": "brief", "expires_in": 1})
    revoked = server.ask("POST", "/tokens", json={"name": "revoked"})
    assert server.call("DELETE", f"/tokens/{revoked['id']}").status_code == 204
    session = server.login("admin")
    server.ask("POST", "/auth/logout", session)
    gone = server.user("gone", "admin")
    assert server.call("DELETE", "/users/gone").status_code == 204
    head, payload, signature = server.admin.split(".")
    other = "A" if signature[5] != "A" else "B"
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    end = time.monotonic() + 5
    while server.call("GET", "/auth/me", brief["token"]).status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    tokens = {
        "expired": (brief["token"], "AUTH_TOKEN_EXPIRED"),
        "revoked": (revoked["token"], "AUTH_TOKEN_INVALID"),
        "logged out": (session, "AUTH_TOKEN_INVALID"),
        "deactivated": (gone, "AUTH_TOKEN_INVALID"),
        "nonsense": ("nonsense", "AUTH_TOKEN_INVALID"),
        "forged": (f"{head}.{payload}.{signature[:5]}{other}{signature[6:]}", "AUTH_TOKEN_INVALID"),
        "unsigned": (f"{none}.{payload}.", "AUTH_TOKEN_INVALID"),
        "registration": (server.registration_token(), "AUTH_TOKEN_INVALID"),
        "long": ("x" * 20_000, "AUTH_TOKEN_INVALID"),
    }
    for method, template, action in routes:
        if action == PUBLIC:
            continue
        path = world.paths(template, real=True)
        for name, (token, code) in tokens.items():
            answer = _ask(world, "nobody", token, method, path)
            if answer.status_code != 401 or _code(answer) != code:
                wrong.append(f"{name}: {method} {path}: {answer.status_code} {answer.text[:200]}")
    assert wrong == []
    assert len(server.login("admin").split(".")) == 3  # and nothing was broken on the way


def test_what_is_sent_with_a_refusal_is_not_looked_at(world: World, routes: list[tuple[str, str, str]]) -> None:
    """Strangers learn nothing from validation: 401 whatever the body."""
    wrong = []
    for method, template, action in routes:
        if action == PUBLIC or method in ("GET", "DELETE"):
            continue
        url = world.server.url + world.paths(template, real=True)
        for content in (b"", b"{", b'{"unknown":1}', b"\xff" * 100):
            headers = {"Content-Type": "application/json"}
            answer = world.server.http.request(method, url, content=content, headers=headers)
            if answer.status_code != 401:
                wrong.append((method, template, content[:20], answer.status_code))
    assert wrong == []


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "POST", "DELETE"])
def test_anothers_things_are_as_if_they_were_not_there(
    world: World, routes: list[tuple[str, str, str]], method: str
) -> None:
    """404, in the very words that are used for what does not exist; and nothing is changed."""
    wrong = []
    body = {"spec": spec_for("x"), "reason": "", "name": "taken-over", "description": "mine now"}
    for operation, template, action in routes:
        names = set(re.findall(r"{(\w+)}", template))
        if operation != method or not names & {"pipeline_id", "run_id", "blob_id"}:
            continue
        answers = []
        for real in (True, False):
            path = world.paths(template, real=real)
            answer = world.server.call(method, path, world.tokens["outsider"], json=body if method != "GET" and method != "DELETE" else None)
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
    for actor, sees in [("viewer", True), ("user", True), ("outsider", False), ("operator", True), ("admin", True)]:
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
    assert server.call("PATCH", f"/users/{me['id']}", world.tokens["user"], json={"role": "admin"}).status_code == 403


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
    for path in (f"/secrets?projectId={world.project}", "/audit?limit=100", f"/pipelines/{world.real['pipeline_id']}/spec"):
        assert "s3cr3t-value" not in server.call("GET", path).text
    assert "s3cr3t-value" not in server.log()
    assert PASSWORD not in server.log()
    assert all(token not in server.log() for token in world.tokens.values() if token)


# -- sockets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", ["viewer", "user", "operator", "admin"])
async def test_sockets_open_for_those_in_the_project(world: World, actor: str) -> None:
    url = f"{world.server.ws}/api/v1/workflow-runs/{world.real['run_id']}/stream"
    async with websocket(url, world.tokens[actor]) as ws:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ws.recv()  # nothing has happened yet, but nobody is turned away


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
        params = {"pipelineId": world.real["pipeline_id"], "jobId": view["jobs"][0]["id"], "stepRunId": step_run_id}
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
        server.ask("POST", "/users", json={"username": "private.name", "password": PASSWORD, "role": "viewer"})
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


# -- gRPC -----------------------------------------------------------------------------------------------


def _methods(server: Server) -> Iterator[tuple[str, str]]:
    """Every method that the server says it has, with its action."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(stub.ServerReflectionInfo(iter([asked])))
    for service in listed.list_services_response.service:
        assert service.name in RPCS, f"{service.name} is served, and no test knows who may call it"
        for method in table().methods:
            if method.startswith(f"{service.name}/"):
                yield method, RPCS[service.name]


@pytest.mark.parametrize(
    "actor", ["nobody", "nonsense", "viewer", "user", "outsider", "operator", "admin", "agent"]
)
async def test_every_rpc_keeps_to_the_table(world: World, actor: str) -> None:
    """Register is for everyone who has a registration token; here nobody has."""
    token = "nonsense" if actor == "nonsense" else world.tokens[actor]
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    wrong, walked = [], 0
    async with FakeAgent(world.server.grpc, "walker") as agent:
        for method, action in _methods(world.server):
            walked += 1
            asks, _, asks_stream, answers_stream = table().methods[method]
            request = table().message(asks)()
            if asks.endswith("RegisterRequest"):
                request.agent_id = "walker"
            if method.endswith("/Unregister"):
                request.agent_id = "somebody-else"
            call = agent.rpc(method)(_silence() if asks_stream else request, metadata=metadata, timeout=1)
            code = grpc.StatusCode.OK
            try:
                await (call.read() if answers_stream else call)
            except grpc.aio.AioRpcError as error:
                code = error.code()
            finally:
                call.cancel()
            expected = {"nobody": "UNAUTHENTICATED", "nonsense": "UNAUTHENTICATED"}.get(actor, "PERMISSION_DENIED")
            if method.endswith("/Register"):
                expected = "UNAUTHENTICATED"
            refused = code.name in ("UNAUTHENTICATED", "PERMISSION_DENIED")
            if world.allowed(actor if actor != "nonsense" else "nobody", action):
                if refused and not method.endswith("/Unregister"):
                    wrong.append((method, code.name))
            elif code.name not in (expected, "UNIMPLEMENTED"):
                wrong.append((method, code.name))
    assert walked >= 12
    assert wrong == []


async def _silence() -> Any:
    await asyncio.Event().wait()
    yield


async def test_a_revoked_agent_is_refused_on_every_rpc(world: World) -> None:
    async with await registered(world.server, "revoked") as agent:
        assert world.server.call("DELETE", "/agents/revoked").status_code == 204
        for method, _ in _methods(world.server):
            asks, _, asks_stream, answers_stream = table().methods[method]
            call = agent.rpc(method)(
                _silence() if asks_stream else table().message(asks)(), metadata=agent.metadata, timeout=2
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call.read() if answers_stream else call)
            expected = ("UNAUTHENTICATED", "UNIMPLEMENTED", "INVALID_ARGUMENT")
            assert caught.value.code().name in expected, method


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
