"""Authorization: every route and every RPC with every role.

What must come out follows from the one table of rights, ``identity.model.ACTIONS``; nothing here is a list of
routes, so that a route added tomorrow is walked tomorrow.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilothouse.access.model import ACTIONS, AGENT_ACTIONS
from pilothouse.edge.web import required_actions
from pilothouse.identity.service import Identity
from pilothouse.server.app import build_app
from pilothouse.server.graph import build
from pilothouse.server.settings import Settings
from support.fake_agent import FakeAgent, registered
from support.messages import asyncapi
from support.server import Server, running
from support.waiting import PATIENCE, eventually
from support.wire_table import table
from support.world import PUBLIC, World, make_world, routes_of

SOCKETS = {
    "/api/v1/workflow-runs/{run_id}/stream": "run.read",
    "/api/v1/ws": "run.read",
}
"""WebSockets authorize after the accept; each is tested by name below."""

DOCUMENTS = {
    "/openapi.json",
    "/asyncapi.json",
    "/docs",
    "/docs/start.js",
    "/docs/streams",
    "/docs/streams.css",
    "/docs/{version}/{name}",
}
RPCS = {
    "agent.v1.AgentService": "agent.self",
    "agent.v1.AgentService/CancelStepRun": "run.control",
    "agent.v1.AgentService/CancelJobRun": "run.control",
    "gateway.v1.GatewayService": "agent.self",
    "pipeline.v1.PipelineService": "pipeline.read",
    "pipeline.v1.PipelineService/CreatePipeline": "pipeline.write",
    "pipeline.v1.PipelineService/UpdatePipeline": "pipeline.write",
    "pipeline.v1.PipelineService/DeletePipeline": "pipeline.write",
    "pipeline.v1.PipelineService/SavePipelineSpec": "pipeline.write",
    "pipeline.v1.PipelineService/TriggerPipeline": "run.trigger",
    "pipeline.v1.PipelineService/StopPipeline": "run.control",
    "pipeline.v1.PipelineService/PausePipeline": "run.control",
    "pipeline.v1.PipelineService/ResumePipeline": "run.control",
    "pipeline.v1.PipelineService/GetPipelineRun": "run.read",
    "pipeline.v1.PipelineService/ListPipelineRuns": "run.read",
    "steprun.v1.StepRunService": "run.read",
    "steprun.v1.StepRunService/CreateStepRun": "run.trigger",
    "steprun.v1.StepRunService/RetryStepRun": "run.trigger",
    "steprun.v1.StepRunService/UpdateStepRun": "run.control",
    "steprun.v1.StepRunService/DeleteStepRun": "run.control",
    "steprun.v1.StepRunService/CancelStepRun": "run.control",
    "stream.v1.StreamService": "run.read",
    "stream.v1.StreamService/AgentChannel": "agent.self",
    "stream.v1.StreamService/StreamAgentStatus": "agent.read",
    "stream.v1.StreamService/StreamEvents": "events.read",
    "grpc.health.v1.Health": PUBLIC,
    "grpc.reflection.v1alpha.ServerReflection": PUBLIC,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rights")) as server:
        yield server


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    return make_world(server)


@pytest.fixture(scope="module")
def routes(server: Server) -> list[tuple[str, str, str]]:
    return routes_of(server)


async def test_every_route_declares_its_permission(
    tmp_path: Path, routes: list[tuple[str, str, str]]
) -> None:
    graph = build(Settings(data_dir=tmp_path / "data"))
    try:
        app = build_app(graph)
        declared = [r for r in required_actions(app) if r[1] not in DOCUMENTS and r[0] != "HEAD"]
    finally:
        graph.journal.feed.close()
        graph.service(Identity).close()
        graph.database.close()
    http = {(method, path): action for method, path, action in declared if method != "WEBSOCKET"}
    assert [route for route, action in http.items() if action is None] == []
    assert [a for a in http.values() if a != PUBLIC and a not in ACTIONS and a not in AGENT_ACTIONS] == []
    assert {path for method, path, _ in declared if method == "WEBSOCKET"} == set(SOCKETS)
    assert set(SOCKETS) <= {channel["address"] for channel in asyncapi()["channels"].values()}
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
            if (
                answer.status_code in (401, 403)
                and not in_no_project
                and not _belongs_elsewhere(answer, actor)
            ):
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
    end = time.monotonic() + PATIENCE
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


def test_what_is_sent_with_a_refusal_is_not_looked_at(
    world: World, routes: list[tuple[str, str, str]]
) -> None:
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


def _methods(server: Server) -> Iterator[tuple[str, str]]:
    """Every method in the server's reflection, with its action."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(stub.ServerReflectionInfo(iter([asked])))
    for service in listed.list_services_response.service:
        assert service.name in RPCS, f"{service.name} is served, and no test knows who may call it"
        for method in table().methods:
            if method.startswith(f"{service.name}/"):
                yield method, RPCS.get(method, RPCS[service.name])


@pytest.mark.parametrize(
    "actor", ["nobody", "nonsense", "viewer", "user", "outsider", "operator", "admin", "agent"]
)
async def test_every_rpc_keeps_to_the_table(world: World, actor: str) -> None:
    """Register requires a registration token; none is given here."""
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
            may = world.allowed(actor if actor != "nonsense" else "nobody", action)
            may = may or (
                actor == "agent" and method.startswith("agent.") and "/Cancel" in method
            )  # its own work
            # Whoever may would wait for ever; whoever may not is told so, however busy the machine.
            call = agent.rpc(method)(
                _silence() if asks_stream else request, metadata=metadata, timeout=1 if may else PATIENCE
            )
            code = grpc.StatusCode.OK
            try:
                await (call.read() if answers_stream else call)
            except grpc.aio.AioRpcError as error:
                code = error.code()
            finally:
                call.cancel()
            expected = {"nobody": "UNAUTHENTICATED", "nonsense": "UNAUTHENTICATED"}.get(
                actor, "PERMISSION_DENIED"
            )
            if method.endswith("/Register"):
                expected = "UNAUTHENTICATED"
            refused = code.name in ("UNAUTHENTICATED", "PERMISSION_DENIED")
            if may:
                if refused and not method.endswith("/Unregister"):
                    wrong.append((method, code.name))
            elif code.name not in (expected, "UNIMPLEMENTED"):
                wrong.append((method, code.name))
    assert walked >= 18
    assert wrong == []


async def _silence() -> Any:
    await asyncio.Event().wait()
    yield


async def test_a_revoked_agent_is_refused_on_every_rpc(world: World) -> None:
    async with await registered(world.server, "revoked") as agent:
        await eventually(lambda: world.server.ask("GET", "/agents/revoked")["status"] == "online")
        assert world.server.call("DELETE", "/agents/revoked").status_code == 204
        for method, _ in _methods(world.server):
            asks, _, asks_stream, answers_stream = table().methods[method]
            call = agent.rpc(method)(
                _silence() if asks_stream else table().message(asks)(),
                metadata=agent.metadata,
                timeout=PATIENCE,
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call.read() if answers_stream else call)
            expected = ("UNAUTHENTICATED", "UNIMPLEMENTED", "INVALID_ARGUMENT")
            assert caught.value.code().name in expected, method


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
