"""``stream.v1.StreamService``: presence of agents, and events by type and resource."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.fake_agent import FakeAgent, events, registered
from support.live_run import Live, begin, fresh_name
from support.rpc_streams import Streams, streams
from support.server import Server, running, spec_for
from support.waiting import eventually

ONLINE, OFFLINE, BUSY = pb.AGENT_STATUS_ONLINE, pb.AGENT_STATUS_OFFLINE, pb.AGENT_STATUS_BUSY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("grpc_events")) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Streams]:
    async with streams(server) as made:
        yield made


# -- agents -----------------------------------------------------------------------------------------------


async def test_an_agent_comes_drains_and_goes(server: Server, client: Streams) -> None:
    name = fresh_name()
    everyone = await client.follow(pb.StreamAgentStatusRequest()).opened()
    standing = len(server.ask("GET", "/agents?limit=100")["agents"])
    await everyone.next(standing)
    async with FakeAgent(server.grpc, name, slots=3, labels={"os": "linux"}) as agent:
        await agent.register(server.registration_token(), ip="192.0.2.7", agent_name="builder")
        await agent.connect()
        await eventually(lambda: server.ask("GET", f"/agents/{name}")["status"] == "online")
        one = client.follow(pb.StreamAgentStatusRequest(agent_ids=[name]))
        [present] = await one.next()
        assert (present.status, present.previous_status, present.state) == (ONLINE, 0, "online")
        server.ask("PATCH", f"/agents/{name}", json={"status": "draining"})
        server.ask("PATCH", f"/agents/{name}", json={"status": "online"})
    await eventually(lambda: server.ask("GET", f"/agents/{name}")["status"] == "offline")
    await agent.connect()
    await eventually(lambda: server.ask("GET", f"/agents/{name}")["status"] == "online")
    await agent.call("agent.v1.AgentService/UpdateLabels", agent_id=name, labels={"os": "plan9"})
    assert server.call("DELETE", f"/agents/{name}").status_code == 204
    await agent.vanish()
    story = [
        (BUSY, ONLINE, "draining"),
        (ONLINE, BUSY, "online"),
        (OFFLINE, ONLINE, "offline"),
        (ONLINE, OFFLINE, "online"),
        (ONLINE, 0, "online"),  # it reports something else
        (OFFLINE, ONLINE, "offline"),
    ]
    came = [(OFFLINE, 0, "offline"), (ONLINE, OFFLINE, "online")]  # registered, connected
    for call, expected in ((one, story), (everyone, came + story)):
        messages = await call.next(len(expected))
        assert [(m.status, m.previous_status, m.state) for m in messages] == expected
        assert {m.agent_id for m in messages} == {name}
        for m in messages:
            assert (m.hostname, m.ip, m.max_concurrent_step_runs) == ("builder", "192.0.2.7", 3)
        assert [m.labels["os"] for m in messages][-3:] == ["linux", "plan9", "plan9"]
        assert messages[-4].reason
    assert present.last_heartbeat > 1_500_000_000  # Unix seconds


async def test_how_much_an_agent_holds(server: Server, client: Streams) -> None:
    live = await begin(server)
    name = live.agent.agent_id
    [present] = await client.follow(pb.StreamAgentStatusRequest(agent_ids=[name])).next()
    assert (present.running_step_runs_count, present.max_concurrent_step_runs) == (1, 4)
    call = client.follow(pb.StreamAgentStatusRequest(agent_ids=[name]), "now")
    await call.opened()
    server.ask("PATCH", f"/agents/{name}", json={"status": "draining"})
    assert [m.running_step_runs_count for m in await call.next()] == [1]
    await live.agent.vanish()


# -- events -----------------------------------------------------------------------------------------------


async def lived(server: Server) -> tuple[Live, Any]:
    """A run whose only step has failed, and that step."""
    live = await begin(server)
    await live.agent.finish(live.task, 5, 3)
    await eventually(lambda: live.status() == "failed")
    await live.agent.vanish()
    return live, live.task


async def test_events_as_they_happen(server: Server, client: Streams) -> None:
    call = await client.follow(pb.StreamEventsRequest()).opened()
    live, task = await lived(server)
    pipeline_id, run_id = live.params["pipelineId"], live.run_id
    found = [m for m in await call.next(11) if m.resource_type != "agent"]
    assert [(pb.EventType.Name(m.event_type)[11:], m.type.removeprefix("arcentra."), m.resource_id) for m in found] == [
        ("UNSPECIFIED", "pipeline.created", pipeline_id),
        ("PIPELINE_STARTED", "pipeline.started", pipeline_id),
        ("JOB_STARTED", "job.started", task.job_id),
        ("STEP_RUN_CREATED", "step.queued", task.step_run_id),
        ("STEP_RUN_STARTED", "step.started", task.step_run_id),
        ("STEP_RUN_FAILED", "step.failed", task.step_run_id),
        ("JOB_FAILED", "job.failed", task.job_id),
        ("PIPELINE_FAILED", "pipeline.failed", pipeline_id),
    ]  # fmt: skip
    assert {m.metadata["run_id"] for m in found} == {run_id}
    assert len({m.event_id for m in found}) == len(found)
    assert found[0].user_id == server.ask("GET", "/auth/me")["id"]
    failed = found[5]
    assert (failed.title, failed.description) == ("Step work: failed", "exit code 3")
    assert (failed.metadata["exit_code"], failed.metadata["step"]) == ("3", "work")
    assert failed.timestamp > 1_500_000_000  # Unix seconds


async def test_events_are_filtered(server: Server, client: Streams) -> None:
    E = pb.StreamEventsRequest
    wanted = [pb.EVENT_TYPE_STEP_RUN_FAILED, pb.EVENT_TYPE_PIPELINE_FAILED, pb.EVENT_TYPE_AGENT_REGISTERED]
    by_type = await client.follow(E(event_types=wanted)).opened()
    jobs = await client.follow(E(resource_type="job")).opened()
    live, task = await lived(server)
    pipeline_id, run_id, agent_id = live.params["pipelineId"], live.run_id, live.agent.agent_id
    await lived(server)
    assert [m.event_type for m in await by_type.next(6)] == [14, 4, 12] * 2
    assert [m.event_type for m in await jobs.next(4)] == [6, 8] * 2
    for ids, more, types in [
        ([run_id], {}, [0, 10, 6, 1, 2, 4, 8, 12]),
        ([pipeline_id], {"resource_type": "pipeline"}, [0, 10, 12]),
        ([run_id], {"resource_type": "step"}, [1, 2, 4]),
        ([task.job_id], {}, [6, 1, 2, 4, 8]),
        ([task.step_run_id], {"event_types": [4, 8]}, [4]),
        ([agent_id], {}, [14, 0, 16]),
        ([agent_id, task.step_run_id], {"event_types": [4, 14, 16]}, [14, 4, 16]),
    ]:
        call = client.follow(E(resource_ids=ids, **more), "start")
        assert [m.event_type for m in await call.next(len(types))] == types, (ids, more)
        assert await call.silent(0.1), (ids, more)


async def test_filters_that_are_none(client: Streams) -> None:
    for request in (
        pb.StreamEventsRequest(event_types=[99]),
        pb.StreamEventsRequest(event_types=[1] * 101),
        pb.StreamEventsRequest(resource_type="planet"),
        pb.StreamEventsRequest(resource_ids=["x"] * 1001),
        pb.StreamEventsRequest(resource_ids=["x" * 300]),
        pb.StreamAgentStatusRequest(agent_ids=["\x00"]),
    ):
        code, details = await client.refused(request)
        assert (code, details.split(":")[0]) == ("INVALID_ARGUMENT", "INVALID_PARAMETER"), request


async def test_cut_off_at_each_event_one_goes_on_behind_it(server: Server, client: Streams) -> None:
    live, _ = await lived(server)
    request = pb.StreamEventsRequest(resource_ids=[live.run_id])
    whole = await client.follow(request, "start").next(8)
    for number in range(7):
        back = client.follow(request, whole[number].cursor)
        assert await back.next(7 - number) == whole[number + 1 :]
        back.cancel()


async def test_events_of_an_agents_own(server: Server, client: Streams) -> None:
    live = await begin(server)
    call = await client.follow(pb.StreamEventsRequest(resource_ids=[live.run_id])).opened()
    everything = await client.follow(pb.StreamEventsRequest()).opened()
    payload = {"target": "eu-1", "ok": True, "nested": {"n": 3}}
    ack = await live.agent.push_events(
        events(("e1", 1, live.step, "deploy.note", payload), ("e2", 2, "", "disk.full", {"left": 0}))
    )
    assert ack.status == 1
    [note] = await call.next()
    assert (note.type, note.event_type, note.resource_type, note.resource_id) == (
        "deploy.note", 0, "step", live.step)  # fmt: skip
    assert json.loads(note.metadata["payload"]) == payload
    [same, disk] = await everything.next(2)
    assert same == note
    assert (disk.type, disk.resource_type, disk.resource_id) == ("disk.full", "agent", live.agent.agent_id)
    await live.agent.vanish()


async def test_a_step_that_never_ran(server: Server, client: Streams) -> None:
    name = fresh_name()
    async with await registered(server, name) as agent:
        run_id = server.trigger(server.pipeline(name, spec_for(name, "one", "two")))
        call = client.follow(pb.StreamEventsRequest(resource_ids=[run_id], resource_type="step"), "start")
        await agent.ack(await agent.task())
        task = agent.received[-1].task_dispatch.step_runs[0]
        await agent.report(task.step_run_id, 5, 1)
        types = [m.type for m in await call.next(4)]
        assert types == [f"arcentra.step.{word}" for word in ("queued", "started", "failed", "skipped")]


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
