"""``/api/v1/ws``: the log and status channels of the Arcentra page."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest

from support.fake_agent import registered
from support.live_run import TIME, Live, begin, followers, fresh_name, numbered, received
from support.server import Server, spec_for
from support.waiting import eventually
from support.watchers import (
    websocket,
)

PARAMS = ("pipelineId", "jobId", "stepRunId")


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


async def test_the_log_channel(live: Live) -> None:
    await live.say(*numbered(0, 450))
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))  # action: subscribe
        first, *chunks, done = await received(ws, 5)
        assert first == {"channel": "channel_log", "type": "subscribed", "params": live.params, "data": None}
        assert done == {**first, "type": "history_done"}
        assert [c["type"] for c in chunks] == ["log_chunk"] * 3
        assert all(len(c["data"]) <= 200 and c["params"] == live.params for c in chunks)
        history = [log for c in chunks for log in c["data"]]
        assert [log["content"] for log in history] == numbered(0, 450)
        assert [log["line_number"] for log in history] == list(range(1, 451))
        await live.say("live 1", "live 2")
        logs = await received(ws, 2)
        assert [log["type"] for log in logs] == ["log", "log"]
        entry = logs[1]["data"]
        assert (entry["content"], entry["line_number"], entry["stream"]) == ("live 2", 452, "stdout")
        assert (entry["step_run_id"], entry["agent_id"]) == (live.step, live.agent.agent_id)
        assert entry["level"] == "info"
        assert abs(entry["timestamp"] - time.time()) < 60  # Unix seconds
        # A finished step: history, history_done, nothing more.
        await live.end()
        await received(ws, 1)
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        kinds = [m["type"] for m in await received(ws, 7)]
        assert kinds == ["subscribed", *["log_chunk"] * 5, "history_done"]
        await ws.send("?")
        assert (await received(ws, 1))[0]["type"] == "error"


async def test_a_step_is_followed_before_it_begins(server: Server) -> None:
    agent = await registered(server, fresh_name())
    pipeline_id = server.pipeline(fresh_name(), spec_for(agent.agent_id, "one", "two"))
    run_id = server.trigger(pipeline_id)
    [job] = server.ask("GET", f"/workflow-runs/{run_id}")["jobs"]
    [waiting] = job["steps"][1]["attempts"]
    assert (waiting["status"], waiting["number"]) == ("pending", 1)
    params = dict(zip(PARAMS, (pipeline_id, job["id"], waiting["step_run_id"]), strict=True))
    async with websocket(f"{server.ws}/api/v1/ws", server.admin) as ws:
        for channel in ("channel_log", "channel_status"):
            await ws.send(json.dumps({"channel": channel, "params": params}))
        subscribed, done, snapshot = await received(ws, 3)
        assert [subscribed["type"], done["type"]] == ["subscribed", "history_done"]
        assert (snapshot["type"], snapshot["data"]["status"]) == ("status_snapshot", 1)
        for step_run_id in (None, waiting["step_run_id"]):
            task = await agent.task()
            assert step_run_id in (None, task.step_run_id)
            await agent.ack(task)
            await agent.finish(task)
        told = [message["data"]["status"] for message in await received(ws, 3)]
        assert told == ["queued", "started", "completed"]
    await agent.vanish()


async def test_unsubscribing(live: Live) -> None:
    before = followers(live.server)
    request = {"channel": "channel_log", "params": live.params}
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        await ws.send(json.dumps(request))
        await received(ws, 2)
        await ws.send(json.dumps({**request, "action": "unsubscribe"}))
        (answer,) = await received(ws, 1)
        assert answer == {**request, "type": "unsubscribed", "data": None}
        await live.say("unheard")
        await ws.send(json.dumps(request))  # and again
        kinds = [m["type"] for m in await received(ws, 3)]
        assert kinds == ["subscribed", "log_chunk", "history_done"]
        await live.say("heard")
        await live.say("again")
        assert [m["data"]["content"] for m in await received(ws, 2)] == ["heard", "again"]
        await ws.send(json.dumps({**request, "action": "unsubscribe"}))
        await received(ws, 1)
        await eventually(lambda: followers(live.server) <= before)


async def test_the_status_channel(server: Server) -> None:
    name = fresh_name()
    async with await registered(server, name) as agent:
        pipeline_id = server.pipeline(name, spec_for(name))
        run_id = server.trigger(pipeline_id)
        task = await agent.task()
        params = {"pipelineId": pipeline_id, "jobId": task.job_id, "stepRunId": task.step_run_id}
        async with websocket(f"{server.ws}/api/v1/ws", server.admin) as ws:
            await ws.send(json.dumps({"channel": "channel_status", "params": params}))
            (snapshot,) = await received(ws, 1)
            assert (snapshot["channel"], snapshot["type"]) == ("channel_status", "status_snapshot")
            assert set(snapshot["data"]) >= {
                "stepRunId", "pipelineId", "jobId", "status", "startTime", "endTime", "duration"}  # fmt: skip
            assert (snapshot["data"]["status"], snapshot["data"]["startTime"]) == (2, None)
            await agent.ack(task)
            (started,) = await received(ws, 1)
            data = started["data"]
            assert (started["type"], data["eventType"], data["status"]) == (
                "status", "arcentra.step.started", "started")  # fmt: skip
            assert data["subject"] == "pipeline:{pipelineId}:job:{jobId}:step:{stepRunId}".format(**params)
            assert set(data["raw"]) == {"type", "data", "subject"}
            await agent.finish(task)
            (ended,) = await received(ws, 1)
            assert ended["data"]["eventType"] == "arcentra.step.completed"
            await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")
        async with websocket(f"{server.ws}/api/v1/ws", server.admin) as ws:
            await ws.send(json.dumps({"channel": "channel_status", "params": params}))
            (snapshot,) = await received(ws, 1)
            await ws.send("?")
            (error,) = await received(ws, 1)  # the snapshot alone
            assert (snapshot["type"], snapshot["data"]["status"]) == ("status_snapshot", 4)
            assert snapshot["data"]["duration"] >= 0
            assert TIME.fullmatch(snapshot["data"]["endTime"])
            assert error["type"] == "error"


async def test_several_subscriptions_on_one_socket(server: Server) -> None:
    one, two = await begin(server), await begin(server)
    async with websocket(f"{server.ws}/api/v1/ws", server.admin) as ws:
        for live in (one, two):
            for channel in ("channel_log", "channel_status"):
                await ws.send(json.dumps({"channel": channel, "params": live.params}))
        await received(ws, 6)
        for n in range(5):
            await one.say(f"one {n}")
            await two.say(f"two {n}")
        lines: dict[str, list[str]] = {one.step: [], two.step: []}
        for message in await received(ws, 10):
            assert message["data"]["step_run_id"] == message["params"]["stepRunId"]
            lines[message["params"]["stepRunId"]].append(message["data"]["content"])
        assert lines == {one.step: [f"one {n}" for n in range(5)], two.step: [f"two {n}" for n in range(5)]}
    await one.agent.vanish()
    await two.agent.vanish()


@pytest.mark.parametrize(
    "request_",
    [
        "garbage",
        "[]",
        "null",
        "7",
        '"text"',
        "{}",
        '{"channel":"channel_log"}',
        '{"channel":"nothing","params":{"pipelineId":"a","jobId":"b","stepRunId":"c"}}',
        '{"channel":["channel_log"],"params":{}}',
        '{"channel":"channel_log","params":[]}',
        '{"channel":"channel_log","params":{"pipelineId":"a","jobId":"b"}}',
        '{"channel":"channel_log","params":{"pipelineId":1,"jobId":{},"stepRunId":[]}}',
        '{"channel":"channel_log","params":{"pipelineId":"a","jobId":"b","stepRunId":"\\u0000"}}',
        '{"channel":"channel_log","params":{"pipelineId":"\\ud800","jobId":"b","stepRunId":"c"}}',
        '{"channel":"channel_log","action":"explode","params":{"pipelineId":"a","jobId":"b","stepRunId":"c"}}',
        '{"channel":"channel_log","action":{},"params":{"pipelineId":"a","jobId":"b","stepRunId":"c"}}',
        '{"channel":"channel_status","params":{"pipelineId":"a","jobId":"b","stepRunId":"c"}}',
        "[" * 100_000,
        '{"a":' * 50_000,
        b"\xff\xfe\x00binary",
        b'{"channel":"channel_log"}',
        json.dumps({"channel": "channel_log", "params": dict.fromkeys(PARAMS, "x" * 300_000)}),
        json.dumps({"channel": "x" * 900_000}),
    ],
    ids=lambda r: str(r)[:40],
)  # fmt: skip
async def test_a_bad_request_gets_an_error_and_the_socket_lives(live: Live, request_: str | bytes) -> None:
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        await ws.send(request_)
        (answer,) = await received(ws, 1)
        assert answer["type"] == "error"
        assert isinstance(answer["error"], str)
        assert answer["data"] is None
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        assert (await received(ws, 1))[0]["type"] == "subscribed"
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))  # twice
        kinds = [m["type"] for m in await received(ws, 2)]
        assert sorted(kinds) == ["error", "history_done"]


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []


async def test_every_place_can_be_come_back_to(live: Live) -> None:
    """With a cursor in the request every message has a cursor, also if there are no entries yet."""
    url, admin = f"{live.server.ws}/api/v1/ws", live.server.admin

    def subscribe(channel: str, cursor: str) -> str:
        return json.dumps({"channel": channel, "params": {**live.params, "cursor": cursor}})

    await live.say("one")
    async with websocket(url, admin) as ws:
        await ws.send(subscribe("channel_log", "start"))
        subscribed, _, done = await received(ws, 3)
        await ws.send(subscribe("channel_status", "now"))
        [shown] = await received(ws, 1)
    assert (subscribed["type"], done["type"]) == ("subscribed", "history_done")
    assert (shown["type"], shown["data"]["status"]) == ("status_snapshot", 3)
    assert shown["data"]["duration"] > 0
    await live.say("two")
    await live.end()
    async with websocket(url, admin) as ws:
        await ws.send(subscribe("channel_log", done["cursor"]))
        logs = [m["data"] for m in await received(ws, 3) if m["type"] == "log_chunk"]
        assert [log["content"] for chunk in logs for log in chunk] == ["two", "END"]
    async with websocket(url, admin) as ws:
        await ws.send(subscribe("channel_log", subscribed["cursor"]))
        logs = [m["data"] for m in await received(ws, 4) if m["type"] == "log_chunk"]
        assert [log["content"] for chunk in logs for log in chunk] == ["one", "two", "END"]
    async with websocket(url, admin) as ws:
        await ws.send(subscribe("channel_status", shown["cursor"]))
        kinds = [m["data"].get("eventType") for m in await received(ws, 2)]
        assert kinds == [None, "arcentra.step.completed"]
