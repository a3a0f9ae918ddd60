"""``stream.v1.StreamService``: every status once and in order, whenever one joins and however often one is cut off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.fake_agent import FakeAgent, Script, registered
from support.live_run import begin, fresh_name
from support.rpc_streams import (
    CANCELLED,
    FAILED,
    PENDING,
    QUEUED,
    RUNNING,
    SKIPPED,
    SUCCESS,
    Streams,
    streams,
)
from support.server import Server, running, spec_for
from support.waiting import eventually

SCRIPTS = {"one": Script(), "two": Script(exit_code=3)}
#: (step, status, previous) of a run of these.
STORY = [
    ("one", QUEUED, PENDING),
    ("one", RUNNING, QUEUED),
    ("one", SUCCESS, RUNNING),
    ("two", QUEUED, PENDING),
    ("two", RUNNING, QUEUED),
    ("two", FAILED, RUNNING),
    ("three", SKIPPED, PENDING),
]


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Streams]:
    async with streams(server) as made:
        yield made


@pytest.fixture
async def agent(server: Server) -> AsyncIterator[FakeAgent]:
    async with await registered(server, fresh_name()) as made:
        yield made


def told(messages: list[Any]) -> list[tuple[str, int, int]]:
    return [(m.step_name, m.status, m.previous_status) for m in messages]


def by_run(run_id: str) -> list[Any]:
    """A request of each kind for everything of one run."""
    return [
        pb.StreamStepRunStatusRequest(pipeline_run_id=run_id),
        pb.StreamJobStatusRequest(pipeline_run_id=run_id),
        pb.StreamPipelineStatusRequest(pipeline_run_ids=[run_id]),
    ]


async def ended(server: Server, run_id: str) -> None:
    await eventually(
        lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] not in ("pending", "running")
    )


async def played(server: Server, agent: FakeAgent) -> tuple[str, str]:
    """A whole run of the story: its pipeline and its id."""
    pipeline_id = server.pipeline(agent.agent_id, spec_for(agent.agent_id, "one", "two", "three"))
    run_id = server.trigger(pipeline_id)
    serving = asyncio.create_task(agent.serve(SCRIPTS))
    await ended(server, run_id)
    serving.cancel()
    return pipeline_id, run_id


# -- before, during, after --------------------------------------------------------------------------------


async def test_an_earlier_subscriber_gets_every_status(
    server: Server, client: Streams, agent: FakeAgent
) -> None:
    pipeline_id = server.pipeline(agent.agent_id, spec_for(agent.agent_id, "one", "two", "three"))
    request = pb.StreamStepRunStatusRequest(pipeline_id=pipeline_id)
    call = await client.follow(request).opened()
    runs = await client.follow(pb.StreamPipelineStatusRequest(pipeline_ids=[pipeline_id])).opened()
    run_id = server.trigger(pipeline_id)
    serving = asyncio.create_task(agent.serve(SCRIPTS))
    messages = await call.next(len(STORY))
    assert told(messages) == STORY
    assert [(m.state, m.total_jobs, m.completed_jobs, m.failed_jobs, m.running_jobs) for m in await runs.next(5)] == [
        ("pending", 1, 0, 0, 0),
        ("running", 1, 0, 0, 0),
        ("running", 1, 0, 0, 1),
        ("running", 1, 1, 1, 0),
        ("failed", 1, 1, 1, 0),
    ]  # fmt: skip
    assert await call.silent()
    serving.cancel()
    view = server.ask("GET", f"/workflow-runs/{run_id}")
    attempts = [a["step_run_id"] for s in view["jobs"][0]["steps"] for a in s["attempts"]]
    assert [m.step_run_id for m in messages] == [attempts[0]] * 3 + [attempts[1]] * 3 + [attempts[2]]
    assert {(m.pipeline_id, m.pipeline_run_id, m.job_id, m.job_name) for m in messages} == {
        (pipeline_id, run_id, view["jobs"][0]["id"], "build")
    }
    last = messages[5]
    assert (last.exit_code, last.error_message, last.agent_id) == (3, "exit code 3", agent.agent_id)
    assert (messages[0].agent_id, messages[1].agent_id) == ("", agent.agent_id)
    assert all(abs(m.timestamp - time.time()) < 600 for m in messages)  # Unix seconds
    assert [bool(m.duration) for m in messages[:2]] == [False, False]
    assert [m.attempt for m in messages] == [1] * 7


async def test_viewers_that_join_during_the_run_get_the_rest(
    server: Server, client: Streams, agent: FakeAgent
) -> None:
    """Whenever one joins, what stands and what then comes make up the whole: no gap, nothing twice."""
    names = [f"s{number}" for number in range(25)]
    pipeline_id = server.pipeline(agent.agent_id, spec_for(agent.agent_id, *names))
    whole = await client.follow(pb.StreamStepRunStatusRequest(pipeline_id=pipeline_id)).opened()
    run_id = server.trigger(pipeline_id)
    serving = asyncio.create_task(agent.serve(dict.fromkeys(names, Script())))
    story = [(name, status) for name in names for status in (QUEUED, RUNNING, SUCCESS)]
    joined: list[asyncio.Task[list[Any]]] = []
    for expected in story:
        call = client.follow(pb.StreamStepRunStatusRequest(pipeline_run_id=run_id))
        joined.append(asyncio.create_task(call.rest()))
        assert [(m.step_name, m.status) for m in await whole.next()] == [expected]
    seen = set()
    for joiner in joined:
        messages = await joiner
        standing = [(m.step_name, m.status) for m in messages if not m.previous_status]
        coming = [(m.step_name, m.status) for m in messages if m.previous_status]
        before = story[: len(story) - len(coming)]
        assert before + coming == story
        waiting = dict.fromkeys(names, PENDING)
        assert standing == list({**waiting, **dict(before)}.items()), "the newest status of every step run"
        assert not any(m.previous_status for m in messages[: len(standing)])
        seen.add(len(coming))
    assert len(seen) > len(story) / 3, "they joined at different times"
    serving.cancel()


async def test_after_the_run_there_is_only_how_it_stands(
    server: Server, client: Streams, agent: FakeAgent
) -> None:
    pipeline_id, run_id = await played(server, agent)
    steps, jobs, runs = [await client.follow(request).rest() for request in by_run(run_id)]
    assert told(steps) == [("one", SUCCESS, 0), ("two", FAILED, 0), ("three", SKIPPED, 0)]
    assert [bool(m.cursor) for m in steps] == [False, False, True]
    assert (steps[1].exit_code, steps[1].error_message) == (3, "exit code 3")
    [job], [run] = jobs, runs
    assert (job.status, job.state, job.previous_status, job.reason) == (4, "failed", 0, "two failed")
    assert (job.total_steps, job.completed_steps, job.failed_steps, job.running_steps) == (3, 3, 1, 0)
    assert (run.status, run.state, run.previous_status, run.run_id) == (4, "failed", 0, run_id)
    assert job.duration > 0
    assert run.duration >= job.duration
    for request, expected in [
        (pb.StreamStepRunStatusRequest(step_run_ids=[steps[0].step_run_id]), steps[:1]),
        (pb.StreamStepRunStatusRequest(job_id=job.job_id), steps),
        (pb.StreamStepRunStatusRequest(pipeline_run_id=run_id, job_name="build"), steps),
        (pb.StreamStepRunStatusRequest(step_run_ids=[steps[1].step_run_id], pipeline_id=pipeline_id), steps[1:2]),
        (pb.StreamJobStatusRequest(job_ids=[job.job_id]), jobs),
    ]:  # fmt: skip
        found = await client.follow(request).rest()
        for one in (*found, *expected):
            one.ClearField("cursor")
        assert found == expected, request
    # A viewer of a pipeline gets its newest run and waits for the next.
    watching = client.follow(pb.StreamPipelineStatusRequest(pipeline_ids=[pipeline_id]))
    assert [(m.run_id, m.state) for m in await watching.next()] == [(run_id, "failed")]
    again = server.trigger(pipeline_id)
    assert [(m.run_id, m.state) for m in await watching.next(2)] == [(again, "pending"), (again, "running")]
    server.ask("POST", f"/workflow-runs/{again}/cancel")


async def test_the_job_shows_the_state_of_its_steps(
    server: Server, client: Streams, agent: FakeAgent
) -> None:
    pipeline_id, run_id = await played(server, agent)
    jobs = await client.follow(pb.StreamJobStatusRequest(pipeline_run_id=run_id), "start").rest()
    assert [
        (
            m.status,
            m.previous_status,
            m.completed_steps,
            m.failed_steps,
            m.running_steps,
            m.current_step_index,
        )
        for m in jobs
    ] == [
        (2, 1, 0, 0, 0, 0),  # it starts
        (2, 2, 0, 0, 0, 0),  # one is queued
        (2, 2, 0, 0, 1, 0),  # runs
        (2, 2, 1, 0, 0, 1),  # is over
        (2, 2, 1, 0, 0, 1),  # two is queued
        (2, 2, 1, 0, 1, 1),
        (2, 2, 2, 1, 0, 2),
        (4, 2, 3, 1, 0, 2),  # three is skipped, the job has failed
    ]
    assert {(m.job_name, m.pipeline_id, m.pipeline_run_id, m.total_steps) for m in jobs} == {
        ("build", pipeline_id, run_id, 3)
    }


async def test_an_attempt_cancelled_in_the_queue(server: Server, client: Streams) -> None:
    name = fresh_name()
    run_id = server.trigger(server.pipeline(name, spec_for("nobody-of-that-name")))
    call = client.follow(pb.StreamStepRunStatusRequest(pipeline_run_id=run_id))
    assert told(await call.next()) == [("work", QUEUED, 0)]
    server.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"reason": "not wanted"})
    [last] = await call.rest()
    assert (last.status, last.previous_status, last.error_message) == (CANCELLED, QUEUED, "not wanted")


async def test_what_an_agent_measured(server: Server, client: Streams) -> None:
    live = await begin(server)
    call = client.follow(pb.StreamStepRunStatusRequest(step_run_ids=[live.step]))
    await call.next()
    metrics = {"cpu": "1.5", "rss": "2048"}
    await live.agent.say(task_status={"step_run_id": live.step, "status": SUCCESS, "metrics": metrics})
    [last] = await call.rest()
    assert dict(last.metrics) == metrics
    await live.agent.vanish()


# -- cursors ----------------------------------------------------------------------------------------------


async def test_cut_off_at_each_message_one_goes_on_behind_it(
    server: Server, client: Streams, agent: FakeAgent
) -> None:
    _, run_id = await played(server, agent)
    for request in by_run(run_id):
        whole = await client.follow(request, "start").rest()
        assert len(whole) >= 5
        for number, message in enumerate(whole):
            assert await client.follow(request, message.cursor).rest() == whole[number + 1 :]
        now = await client.follow(request).rest()
        assert await client.follow(request, now[-1].cursor).rest() == []
        assert await client.follow(request, "now").rest() == []
    # A cursor of one stream is good on another.
    [steps, jobs, runs] = by_run(run_id)
    first = (await client.follow(steps, "start").rest())[3]
    later = await client.follow(jobs, first.cursor).rest()
    assert [m.completed_steps for m in later] == [1, 2, 3]
    assert (await client.follow(runs, first.cursor).rest())[-1].state == "failed"


async def test_coming_back_while_it_goes_on(server: Server, client: Streams) -> None:
    """Cut after the first message about the present, after the last, and in the midst of what comes."""
    live = await begin(server)
    request = pb.StreamStepRunStatusRequest(pipeline_run_id=live.run_id)
    call = client.follow(request)
    await call.next()
    call.cancel()
    coming_back = [client.follow(request, call.cursor), client.follow(request, "now")]
    for one in coming_back:
        assert (await one.opened()).cursor, (
            "there is nothing to say of the present: the place is said at once"
        )
    await live.end()
    for one in coming_back:
        assert told(await one.rest()) == [("work", SUCCESS, RUNNING)]
    assert await client.follow(request, one.cursor).rest() == []
    await live.agent.vanish()


async def test_the_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        name = fresh_name()
        async with streams(server) as client, await registered(server, name) as agent:
            pipeline_id = server.pipeline(name, spec_for(name, "one", "two"))
            request = pb.StreamStepRunStatusRequest(pipeline_id=pipeline_id)
            call = await client.follow(request).opened()
            run_id = server.trigger(pipeline_id)
            task = await agent.task()
            await agent.ack(task)
            got = await call.next(2)
            server.kill9()
            code, _ = await call.end()
            assert code is grpc.StatusCode.UNAVAILABLE
            server.restart()
            await agent.vanish()
            await agent.connect()
            back = client.follow(request, call.cursor)
            only = client.follow(pb.StreamStepRunStatusRequest(pipeline_run_id=run_id), call.cursor)
            await back.opened()
            await agent.report(task.step_run_id)
            task = await agent.task()
            await agent.ack(task)
            await agent.finish(task)
            got += await back.next(4)
            assert told(got) == [*STORY[:5], ("two", SUCCESS, RUNNING)]
            assert await only.rest() == got[2:]
        assert server.failures() == []


async def test_cursors_that_cannot_be_honoured(server: Server, client: Streams) -> None:
    live = await begin(server)
    place = (await client.follow(pb.StreamEventsRequest()).opened()).cursor
    epoch = place.split(".")[0]
    for request in (*by_run(live.run_id), pb.StreamAgentStatusRequest(), pb.StreamEventsRequest()):
        for cursor in ("00000000.1.0", f"{epoch}.999999999.0"):
            code, details = await client.refused(request, cursor)
            assert code == "OUT_OF_RANGE"
            assert "cursor_expired" in details
        for cursor in ("nonsense", "-1", "9" * 5000):
            code, details = await client.refused(request, cursor)
            assert (code, details.split(":")[0]) == ("INVALID_ARGUMENT", "CURSOR_INVALID")
    await live.agent.vanish()


# -- the end of the server ----------------------------------------------------------------------------------


async def test_a_stop_tells_all_clients_to_reconnect(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        live = await begin(server)
        requests = [*by_run(live.run_id), pb.StreamAgentStatusRequest(), pb.StreamEventsRequest()]
        async with streams(server) as client:
            calls = [await client.follow(request).opened() for request in requests]
            for call in calls[:4]:
                await call.next()
            await asyncio.to_thread(server.stop)  # exits with 0 within 10 s
            for call in calls:
                code, details = await call.end()
                assert (code, "reconnect" in details) == (grpc.StatusCode.UNAVAILABLE, True)
            server.restart()
            back = client.follow(requests[0], calls[0].cursor)
            assert (await back.opened()).cursor == calls[0].cursor
        await live.agent.vanish()
        assert server.failures() == []


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
