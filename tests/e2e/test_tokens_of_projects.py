"""API tokens that are limited to projects: never more than these, on every surface."""

from __future__ import annotations

import asyncio

import pytest

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.bodies import plain_error
from support.mutations import NIGHTLY
from support.rpc_streams import streams
from support.server import Server
from support.user_rpc import user_rpc
from support.watchers import closing, sse, websocket


class Two:
    """A user of two projects, and a token for one of them; also one of an admin."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.mine, self.other = (server.project(f"{name}-{which}") for which in ("mine", "other"))
        session = server.user(name, "user", [self.mine, self.other])
        self.pipelines = [server.pipeline(name + p, NIGHTLY, project=p) for p in (self.mine, self.other)]
        self.runs = [server.trigger(pipeline) for pipeline in self.pipelines]
        body = {"name": "limited", "projects": [f"{name}-mine"]}
        self.made = [server.ask("POST", "/tokens", token, json=body) for token in (session, server.admin)]
        self.tokens = [made["token"] for made in self.made]


@pytest.fixture(scope="module")
def two(shared_server: Server) -> Two:
    return Two(shared_server, "twice")


def test_the_token_shows_its_limit(shared_server: Server, two: Two) -> None:
    assert [made["projects"] for made in two.made] == [[two.mine]] * 2
    for token in two.tokens:
        me = shared_server.ask("GET", "/auth/me", token)
        assert me["token"]["projects"] == [two.mine]
        assert set(me["projects"]) <= {two.mine}
    listed = shared_server.ask("GET", "/tokens")["tokens"]
    assert [each["projects"] for each in listed if each["id"] == two.made[1]["id"]] == [[two.mine]]


@pytest.mark.parametrize("which", [0, 1], ids=["user", "admin"])
def test_over_rest(shared_server: Server, two: Two, which: int) -> None:
    server, token = shared_server, two.tokens[which]
    for path, key in (("/projects", "projectId"), ("/pipelines", "projectId")):
        assert {each[key] for each in server.ask("GET", path, token)["list"]} == {two.mine}
    for path, key in (("/workflow-runs", "runs"), ("/gates", "gates"), ("/triggers", "triggers")):
        assert {each["project"] for each in server.ask("GET", path, token)[key]} == {two.mine}
    for pipeline, run, status in zip(two.pipelines, two.runs, (200, 404), strict=True):
        paths = [f"/pipelines/{pipeline}", f"/pipelines/{pipeline}/runs", f"/workflow-runs/{run}"]
        paths += [f"/workflow-runs/{run}/logs"]
        assert [server.call("GET", path, token).status_code for path in paths] == [status] * 4
    trigger = [server.call("POST", f"/pipelines/{each}/trigger", token, json={}) for each in two.pipelines]
    assert [answer.status_code for answer in trigger] == [201, 404]
    secret = {"value": "s3cr3t", "projectId": two.other}
    assert server.call("PUT", "/secrets/S", token, json=secret).status_code == 404
    assert server.call("POST", f"/blobs?project={two.other}", token, content=b"x").status_code == 404
    for path in ("/users", "/audit", "/registration-tokens", "/auth/sessions"):
        plain_error(server.call("GET", path, token), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    answer = server.call("POST", "/projects", token, json={"name": "another"})
    assert answer.status_code == 403


@pytest.mark.parametrize("which", [0, 1], ids=["user", "admin"])
def test_over_grpc(shared_server: Server, two: Two, which: int) -> None:
    server, token = shared_server, two.tokens[which]
    with user_rpc(server, "pipeline.v1.PipelineService") as rpc:
        assert {each.project_id for each in rpc("ListPipelines", token).pipelines} == {two.mine}
        assert {each.pipeline_id for each in rpc("ListPipelineRuns", token).runs} == {two.pipelines[0]}
    with user_rpc(server, "steprun.v1.StepRunService") as rpc:
        listed = rpc("ListStepRuns", token, pageSize=100).step_runs
        assert {each.pipeline_id for each in listed} == {two.pipelines[0]}
        assert rpc.refused("ListStepRuns", token, pipelineRunId=two.runs[1]) == "NOT_FOUND"


def test_tokens_that_it_makes_have_its_limit(shared_server: Server, two: Two) -> None:
    server, token = shared_server, two.tokens[1]
    child = server.ask("POST", "/tokens", token, json={"name": "child"})
    assert child["projects"] == [two.mine]
    wider = server.call("POST", "/tokens", token, json={"name": "wider", "projects": [two.mine, two.other]})
    plain_error(wider, 404, "PROJECT_NOT_FOUND")
    whole = server.ask("POST", "/tokens", json={"name": "whole"})
    plain_error(server.call("DELETE", f"/tokens/{whole['id']}", token), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    assert server.call("DELETE", f"/tokens/{child['id']}", token).status_code == 204


def test_a_membership_that_ends_ends_it_too(shared_server: Server) -> None:
    two = Two(shared_server, "thrice")
    shared_server.ask("DELETE", f"/projects/{two.mine}/members/thrice")
    for run in two.runs:
        assert shared_server.call("GET", f"/workflow-runs/{run}", two.tokens[0]).status_code == 404


@pytest.mark.parametrize("which", [0, 1], ids=["user", "admin"])
async def test_over_streams(shared_server: Server, two: Two, which: int) -> None:
    server, token = shared_server, two.tokens[which]
    mine, other = two.runs
    for run, status in ((mine, 200), (other, 404)):
        async with sse(f"{server.url}/api/v1/workflow-runs/{run}/stream", token) as response:
            assert response.status_code == status
    async with websocket(f"{server.ws}/api/v1/workflow-runs/{other}/stream", token) as ws:
        code, said = await closing(ws)
    assert (code, said[0]["code"]) == (4404, "not_found")
    async with streams(server, token) as client:
        named = pb.StreamPipelineStatusRequest(pipeline_run_ids=[other])
        assert (await client.refused(named))[0] == "NOT_FOUND"
        call = await client.follow(pb.StreamPipelineStatusRequest(), "start").opened()
        journal = sse(f"{server.url}/api/v1/events?cursor=start&type=run.*", token)
        async with journal as response:
            later = [await asyncio.to_thread(server.trigger, each) for each in reversed(two.pipelines)]
            seen = b""
            async for chunk in response.aiter_raw():
                seen += chunk
                if later[1].encode() in seen:
                    break
        assert mine.encode() in seen
        assert other.encode() not in seen
        assert later[0].encode() not in seen
        runs = set()
        while later[1] not in runs:
            runs |= {message.run_id for message in await call.next()}
        call.cancel()
    assert not runs & {other, later[0]}
