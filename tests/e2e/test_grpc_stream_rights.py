"""``stream.v1.StreamService``: who may follow what, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from pilothouse.wire.stream.v1.stream_pb2_grpc import StreamServiceStub
from support.live_run import UNKNOWN, Live, begin, fresh_name
from support.rpc_streams import Call, Streams, streams
from support.server import Server, running
from support.waiting import PATIENCE

Status = grpc.StatusCode


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Streams]:
    async with streams(server) as made:
        yield made


async def hidden(server: Server, member: str = "") -> tuple[str, Live]:
    """A project with the only member ``member``, and a running run of it."""
    project = server.project(fresh_name(), [member] if member else [])
    return project, await begin(server, project)


def about(live: Live) -> list[Any]:
    """Requests that name things of one run."""
    pipeline_id, job_id, step = live.params.values()
    return [
        pb.StreamStepRunStatusRequest(pipeline_run_id=live.run_id),
        pb.StreamStepRunStatusRequest(step_run_ids=[step]),
        pb.StreamStepRunStatusRequest(job_id=job_id),
        pb.StreamStepRunStatusRequest(pipeline_id=pipeline_id),
        pb.StreamJobStatusRequest(pipeline_run_id=live.run_id),
        pb.StreamJobStatusRequest(job_ids=[job_id]),
        pb.StreamJobStatusRequest(pipeline_id=pipeline_id),
        pb.StreamPipelineStatusRequest(pipeline_run_ids=[live.run_id]),
        pb.StreamPipelineStatusRequest(pipeline_ids=[pipeline_id]),
        pb.StreamEventsRequest(resource_ids=[pipeline_id]),
        pb.StreamEventsRequest(resource_ids=[live.run_id]),
        pb.StreamEventsRequest(resource_ids=[job_id]),
        pb.StreamEventsRequest(resource_ids=[step]),
    ]


def everything() -> list[Any]:
    """Requests that name nothing."""
    return [
        pb.StreamStepRunStatusRequest(),
        pb.StreamJobStatusRequest(),
        pb.StreamPipelineStatusRequest(),
        pb.StreamAgentStatusRequest(),
        pb.StreamEventsRequest(),
    ]


def of_nothing(request: Any, live: Live) -> Any:
    """The same request with the id of nothing in place of those of the run."""
    text = request.SerializeToString()
    for id in (*live.params.values(), live.run_id):
        text = text.replace(id.encode(), UNKNOWN.encode())
    return type(request).FromString(text)


async def test_what_belongs_to_others_is_as_if_it_were_not_there(server: Server, client: Streams) -> None:
    _, live = await hidden(server)
    outsider = server.user(fresh_name())
    ids = (*live.params.values(), live.run_id)
    for request in about(live):
        answers = []
        for asked in (request, of_nothing(request, live)):
            code, details = await client.refused(asked, token=outsider)
            for id in (*ids, UNKNOWN):
                details = details.replace(id, "ID")
            answers.append((code, details))
        assert answers[0] == answers[1], request
        assert answers[0][0] == "NOT_FOUND"
        assert answers[0][1].split(":")[0].endswith("NOT_FOUND")
        for cursor in ("start", "now"):
            assert (await client.refused(request, cursor, outsider))[0] == "NOT_FOUND"
        call = await client.follow(request).opened()  # the admin may
        call.cancel()
    await live.agent.vanish()


async def test_who_names_nothing_sees_what_is_his(server: Server, client: Streams) -> None:
    user = fresh_name()
    token = server.user(user, projects=[])
    _, mine = await hidden(server, user)
    _, theirs = await hidden(server)
    calls = [await client.follow(request, "start", token).opened() for request in everything()]
    for request in everything()[:3]:
        found = await client.follow(request, token=token).next()
        assert {run_of(m) for m in found} == {mine.run_id}
    await theirs.end()
    await mine.end()
    for call, last in zip(calls, (4, 3, 3, None, pb.EVENT_TYPE_PIPELINE_COMPLETED), strict=True):
        while last is not None:
            [message] = await call.next()
            assert run_of(message) in (mine.run_id, "")  # events of agents are of no run
            if last in (getattr(message, "event_type", None), getattr(message, "status", None)):
                break
    for live in (mine, theirs):
        await live.agent.vanish()


def run_of(message: Any) -> str:
    """The run a message is about."""
    if isinstance(message, pb.StreamEventsResponse):
        return message.metadata["run_id"]
    return str(getattr(message, "pipeline_run_id", "") or message.run_id)


async def test_things_that_do_not_belong_together(server: Server, client: Streams) -> None:
    """Every filter must match; what is named is then not there."""
    one, two = await begin(server), await begin(server)
    for request in (
        pb.StreamStepRunStatusRequest(step_run_ids=[one.step], pipeline_run_id=two.run_id),
        pb.StreamStepRunStatusRequest(step_run_ids=[one.step], job_name="other"),
        pb.StreamStepRunStatusRequest(pipeline_run_id=one.run_id, job_name="other"),
        pb.StreamStepRunStatusRequest(job_id=one.params["jobId"], pipeline_id=two.params["pipelineId"]),
        pb.StreamPipelineStatusRequest(
            pipeline_run_ids=[one.run_id], pipeline_ids=[two.params["pipelineId"]]
        ),
        pb.StreamAgentStatusRequest(agent_ids=[one.agent.agent_id, "nobody"]),
    ):
        assert (await client.refused(request))[0] == "NOT_FOUND", request
    for live in (one, two):
        await live.agent.vanish()


async def ends(calls: list[Call], code: grpc.StatusCode) -> None:
    """All of them end like that, without being asked."""
    for call in calls:
        assert (await call.end())[0] is code


@pytest.mark.parametrize("how", ["revoked", "expired", "deactivated"])
async def test_the_token_ends(server: Server, client: Streams, how: str) -> None:
    name = fresh_name()
    session = server.user(name)
    live = await begin(server)
    # Long enough for all calls to be opened, even where nothing is fast.
    lasts = {"expires_in": 12} if how == "expired" else {}
    made = server.ask("POST", "/tokens", session, json={"name": "watching", **lasts})
    requests = [*about(live), *everything()]
    calls = [await client.follow(request, token=made["token"]).opened() for request in requests]
    if how == "revoked":
        assert server.call("DELETE", f"/tokens/{made['id']}", session).status_code == 204
    elif how == "deactivated":
        assert server.call("DELETE", f"/users/{name}").status_code == 204
    await ends(calls, Status.UNAUTHENTICATED)
    await live.agent.vanish()


async def test_the_right_to_see_it_ends(server: Server, client: Streams) -> None:
    user = fresh_name()
    token = server.user(user, projects=[])
    project, live = await hidden(server, user)
    _, other = await hidden(server, user)
    both = [
        pb.StreamPipelineStatusRequest(pipeline_run_ids=[live.run_id, other.run_id]),
        pb.StreamEventsRequest(resource_ids=[live.run_id, other.run_id]),
        pb.StreamStepRunStatusRequest(step_run_ids=[live.step, other.step]),
    ]
    calls = [await client.follow(request, token=token).opened() for request in (*about(live), *both)]
    wide = [await client.follow(request, "now", token).opened() for request in everything()[:3]]
    elsewhere = client.follow(pb.StreamPipelineStatusRequest(pipeline_run_ids=[other.run_id]), token=token)
    await elsewhere.next()
    server.ask("DELETE", f"/projects/{project}/members/{user}")
    await live.end()
    await ends(calls, Status.PERMISSION_DENIED)
    late = [m for call in calls for m in call.unread if getattr(m, "previous_status", True)]
    assert late == [], "nothing came after that but how things stood before"
    await other.end()
    for call in wide:
        assert [run_of(m) for m in await call.next()] == [other.run_id], "nothing of the other came before"
    assert [m.state for m in await elsewhere.rest()] == ["running", "succeeded"]
    for run in (live, other):
        await run.agent.vanish()


async def test_agents_and_strangers(server: Server, client: Streams) -> None:
    live = await begin(server)
    for request in (*about(live), *everything()):
        assert (await client.refused(request, token=live.agent.token))[0] == "PERMISSION_DENIED"
        assert (await client.refused(request, token="nonsense"))[0] == "UNAUTHENTICATED"
        assert (await client.refused(request, token=""))[0] == "UNAUTHENTICATED"
    await live.agent.vanish()


async def test_calls_are_counted(tmp_path: Path) -> None:
    with running(tmp_path, ratelimit_default="5/hour") as server:
        token = server.login("admin")
        async with streams(server, token) as client:
            calls = [await client.follow(pb.StreamEventsRequest()).opened() for _ in range(5)]
            code, details = await client.refused(pb.StreamEventsRequest())
            assert (code, details.split(":")[0]) == ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED")
            assert await calls[0].silent(0.1)  # what flows is not


async def test_the_channel_of_agents_is_for_agents(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub: Any = StreamServiceStub(channel)
        call = (
            stub.AgentChannel()
        )  # without a request: one that is sent after the refusal fails in the client
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(PATIENCE):
                await call.read()
        assert caught.value.code() is Status.UNAUTHENTICATED


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
