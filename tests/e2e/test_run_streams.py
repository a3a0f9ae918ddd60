"""One run on every surface: each line once and in order, whatever happens to reader or server."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import grpc.aio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from support.fake_agent import FAILED, FakeAgent, Task, batch, events, registered
from support.server import Server, running, spec_for
from support.waiting import eventually
from support.watchers import (
    END,
    LogChannel,
    RunEvents,
    RunSse,
    RunWs,
    Surface,
    closing,
    follow,
    lines_of,
    replay,
    sse,
    sse_events,
    websocket,
)

UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("streams")) as server:
        yield server


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose timings are short."""
    with running(
        tmp_path_factory.mktemp("brisk"), ws_heartbeat=0.3, ws_pong_wait=0.6, sse_keepalive=0.2
    ) as server:
        yield server


class Live:
    """A run whose one step the test itself carries out."""

    def __init__(self, server: Server, agent: FakeAgent, pipeline_id: str, run_id: str, task: Task) -> None:
        self.server, self.agent, self.run_id, self.task = server, agent, run_id, task
        self.params = {"pipelineId": pipeline_id, "jobId": task.job_id, "stepRunId": task.step_run_id}

    @property
    def step(self) -> str:
        return str(self.task.step_run_id)

    def surfaces(self, token: str = "") -> dict[str, Surface]:
        token = token or self.server.admin
        return {
            "run-sse": RunSse(self.server, token, self.run_id),
            "run-ws": RunWs(self.server, token, self.run_id),
            "events": RunEvents(self.server, token, self.run_id),
            "log-channel": LogChannel(self.server, token, self.params),
        }

    async def say(self, *lines: str) -> None:
        await self.agent.lines(self.step, lines)

    async def end(self) -> None:
        await self.say(END)
        await self.agent.finish(self.task)
        await eventually(lambda: self.status() == "succeeded")

    def view(self) -> Any:
        return self.server.ask("GET", f"/workflow-runs/{self.run_id}")

    def status(self) -> str:
        return str(self.view()["status"])

    def stream(self, query: str = "") -> str:
        return f"{self.server.ws}/api/v1/workflow-runs/{self.run_id}/stream{query}"


_names = iter(f"rs{number}" for number in range(1000))


async def begin(server: Server, project: str = "") -> Live:
    name = next(_names)
    agent = await registered(server, name)
    pipeline_id = server.pipeline(name, spec_for(name), project=project)
    run_id = server.trigger(pipeline_id)
    task = await agent.task()
    await agent.ack(task)
    live = Live(server, agent, pipeline_id, run_id, task)
    await eventually(lambda: live.view()["jobs"][0]["steps"][0]["status"] == "running")
    return live


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


@pytest.fixture
async def quick(brisk: Server) -> AsyncIterator[Live]:
    live = await begin(brisk)
    yield live
    await live.agent.vanish()


def numbered(start: int, stop: int) -> list[str]:
    return [f"line {n}" for n in range(start, stop)]


# -- every line once and in order -----------------------------------------------------------------------


async def test_joined_before_during_and_after(live: Live) -> None:
    before = {name: asyncio.create_task(follow(s)) for name, s in live.surfaces().items()}
    for start in range(0, 60, 7):  # chunks that no page or batch divides evenly
        await live.say(*numbered(start, start + 7))
    during = {name: asyncio.create_task(follow(s)) for name, s in live.surfaces().items()}
    await live.say(*numbered(63, 400))  # more than the 200 of one chunk
    await live.end()
    expected = [*numbered(0, 400), END]
    for name, surface in live.surfaces().items():
        for when, got in (
            ("before", await before[name]),
            ("during", await during[name]),
            ("after", await replay(surface)),
        ):
            assert lines_of(got) == expected, (name, when)


async def test_the_same_messages_live_and_replayed(live: Live) -> None:
    """Replay and live are one code path: not the lines alone, every message is the same."""
    watched = {
        name: asyncio.create_task(follow(live.surfaces()[name])) for name in ("run-sse", "run-ws", "events")
    }
    for start in range(0, 30, 3):
        await live.say(*numbered(start, start + 3))
    await live.end()
    for name, watching in watched.items():
        seen, again = await watching, await replay(live.surfaces()[name])
        assert [m.message for m in seen] == [m.message for m in again], name
        assert seen[-1].cursor == again[-1].cursor


async def test_resumed_at_every_cut(live: Live) -> None:
    for start in range(0, 21, 7):
        await live.say(*numbered(start, start + 7))
    log = live.surfaces()["log-channel"]
    watching = asyncio.create_task(follow(log))
    await live.say(*numbered(21, 24))
    await live.end()
    await watching
    expected = [*numbered(0, 24), END]
    cursors_by_line: dict[int, str] = {}
    for name in ("run-sse", "run-ws", "events"):
        surface = live.surfaces()[name]
        whole = await replay(surface)
        for cut, message in enumerate(whole[:-1], 1):
            assert message.cursor is not None
            rest = await replay(surface, message.cursor)
            assert [m.message for m in rest] == [m.message for m in whole[cut:]], (name, cut)
            seen = len(lines_of(whole[:cut]))
            if name == "run-ws" and message.lines:
                cursors_by_line[seen] = message.cursor
    # A cursor says how many lines were delivered: the log channel goes on at exactly the next.
    assert sorted(cursors_by_line) == list(range(1, 26))
    for seen, cursor in cursors_by_line.items():
        if seen < len(expected):
            rest = await replay(log, cursor)
            assert lines_of(rest) == expected[seen:], seen
            numbers = [e["line_number"] for m in rest if m.lines for e in _logs(m.message)]
            assert numbers == list(range(seen + 1, len(expected) + 1))


def _logs(message: dict[str, Any]) -> list[dict[str, Any]]:
    data = message["data"]
    return data if isinstance(data, list) else [data]


async def test_dropped_after_every_message_while_it_happens(live: Live) -> None:
    watching = {
        name: asyncio.create_task(follow(surface, drop_after=1)) for name, surface in live.surfaces().items()
    }
    for start in range(0, 24, 4):
        await live.say(*numbered(start, start + 4))
    await live.end()
    for name, watched in watching.items():
        async with asyncio.timeout(20):
            assert lines_of(await watched) == [*numbered(0, 24), END], name


async def test_a_killed_server_loses_nothing(tmp_path: Any) -> None:
    with running(tmp_path, lease=30) as server:
        live = await begin(server)
        token = server.admin
        surfaces = live.surfaces(token)
        watching = {name: asyncio.create_task(follow(surface)) for name, surface in surfaces.items()}
        agent = live.agent
        acked = 0

        async def push(number: int) -> None:
            nonlocal acked
            request = batch(live.step, number, numbered(number * 5 - 5, number * 5))
            while True:  # the same number and id until it is acknowledged
                try:
                    ack = await agent.push(request)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)  # the server is away
                    continue
                assert ack.status == 1
                acked = number
                return

        async def push_all() -> None:
            for number in range(1, 61):
                await push(number)

        pushing = asyncio.create_task(push_all())
        for at in (15, 40):  # killed twice, in the midst of pushes
            await eventually(lambda at=at: acked >= at)
            await asyncio.to_thread(server.kill9)
            await asyncio.to_thread(server.restart)
        await pushing
        await agent.vanish()
        await agent.connect()
        await agent.push(batch(live.step, 61, [END]))
        await agent.finish(live.task)
        for name, watched in watching.items():
            async with asyncio.timeout(20):
                assert lines_of(await watched) == [*numbered(0, 300), END], name
        for name, surface in live.surfaces(token).items():
            assert lines_of(await replay(surface)) == [*numbered(0, 300), END], name
        assert live.status() == "succeeded"
        assert server.failures() == []
        server.stop()


async def test_a_reader_that_does_not_read_loses_nothing_and_slows_nobody(live: Live) -> None:
    surfaces = live.surfaces()
    slow = surfaces["run-sse"].watch(None)
    await anext(slow)
    quick = asyncio.create_task(follow(surfaces["run-ws"]))
    lines = [f"{n} " + "x" * 4000 for n in range(4000)]  # more than all socket buffers hold
    for start in range(0, 4000, 200):
        await live.say(*lines[start : start + 200])
    await live.end()
    async with asyncio.timeout(20):
        assert lines_of(await quick) == [*lines, END]
    rest = [message async for message in slow]
    assert lines_of(rest) == [*lines, END]
    assert rest[-1].last


async def test_a_last_message_that_fills_the_socket_still_ends_the_stream(live: Live) -> None:
    watching = [asyncio.create_task(follow(live.surfaces()[name])) for name in ("run-sse", "run-ws")]
    await live.agent.push_events(
        events(("o", 1, live.step, "arcentra.step.output", {"name": "big", "value": "v" * 900_000}))
    )
    async with websocket(live.stream(), live.server.admin) as ws:
        await ws.recv()
        await live.agent.finish(live.task)
        async with asyncio.timeout(10):
            assert (await closing(ws))[0] == 1000
            for watched in watching:
                assert (await watched)[-1].last


# -- the messages ---------------------------------------------------------------------------------------

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_messages_of_the_run_stream_are_those_of_the_page(server: Server) -> None:
    name = next(_names)
    spec = spec_for(name, "one")
    other = {**spec["jobs"][0], "name": "deploy", "dependsOn": ["build"]}
    spec["jobs"].append(other)
    async with await registered(server, name) as agent:
        run_id = server.trigger(server.pipeline(name, spec))
        for job in ("build", "deploy"):
            task = await agent.task()
            assert task.job_name == job
            await agent.ack(task)
            step = task.step_run_id
            await agent.lines(step, [f"in {job}"])
            if job == "build":
                await agent.push_events(
                    events(
                        ("p", 1, step, "arcentra.step.progress", {"percent": 50, "message": "half"}),
                        ("o", 2, step, "arcentra.step.output", {"name": "n", "value": 3}),
                    )
                )
            await agent.finish(task, *((4, 0) if job == "build" else (FAILED, 2)))
        got = [m.message for m in await replay(RunWs(server, server.admin, run_id))]
    keys = [(m["type"], m.get("nodeId"), tuple(m)) for m in got]
    started = ("type", "nodeId", "stepType", "timestamp")
    logged = ("type", "nodeId", "line", "level", "timestamp")
    completed = ("type", "nodeId", "status", "outputs", "duration", "timestamp")
    assert keys == [
        ("step_started", "build/one", started),
        ("step_log", "build/one", logged),
        ("step_progress", "build/one", ("type", "nodeId", "progress", "message")),
        ("step_completed", "build/one", completed),
        ("step_started", "deploy/one", started),
        ("step_log", "deploy/one", logged),
        ("step_completed", "deploy/one", completed),
        ("workflow_completed", None, ("type", "status", "duration", "outputs", "timestamp")),
    ]
    assert all(TIME.fullmatch(m["timestamp"]) for m in got if "timestamp" in m)
    assert got[0]["stepType"] == "shell"
    assert (got[2]["progress"], got[2]["message"]) == (50, "half")
    assert (got[3]["status"], got[3]["outputs"]) == ("succeeded", {"n": 3})
    assert 0 <= got[3]["duration"] < 20  # seconds
    assert (got[6]["status"], got[6]["outputs"]) == ("failed", {})
    assert got[7]["status"] == "failed"


async def test_both_ends_of_a_finished_stream(live: Live) -> None:
    async with websocket(live.stream(), live.server.admin) as ws:
        watching = asyncio.create_task(closing(ws))
        async with sse(live.stream().replace("ws:", "http:"), live.server.admin) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            await live.end()
            code, said = await watching
            assert (code, said[-1]["type"]) == (1000, "workflow_completed")
            shown = [event async for event in sse_events(response.aiter_raw())]  # ends by itself
            assert shown[-1].type == "workflow_completed"
    async with websocket(live.stream(f"?cursor={shown[-1].id}"), live.server.admin) as ws:
        assert await closing(ws) == (1000, [])  # nothing is left, and it says so


async def test_the_cursor_key_comes_only_when_asked_for(live: Live) -> None:
    await live.say("one")
    for query, asked in (("", False), ("?cursor=start", True)):
        async with websocket(live.stream(query), live.server.admin) as ws:
            for _ in range(2):
                message = json.loads(await ws.recv())
                assert ("cursor" in message) is asked
    async with websocket(live.stream("?cursor=now"), live.server.admin) as ws:
        await ws.send('{"type":"pong"}')
        await live.say("two")
        message = json.loads(await ws.recv())
        assert (message["line"], "cursor" in message) == ("two", True)
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        for params, asked in ((live.params, False), ({**live.params, "cursor": "start"}, True)):
            await ws.send(json.dumps({"channel": "channel_log", "params": params}))
            kinds = [json.loads(await ws.recv()) for _ in range(4)]
            assert [k["type"] for k in kinds] == ["subscribed", "log_chunk", "log_chunk", "history_done"]
            assert ("cursor" in kinds[1]) is asked
            await ws.send(json.dumps({"channel": "channel_log", "action": "unsubscribe", "params": params}))
            assert json.loads(await ws.recv())["type"] == "unsubscribed"


async def test_cloudevents(live: Live) -> None:
    await live.say("one")
    await live.end()
    got = await replay(live.surfaces()["events"])
    assert len({m.message["id"] for m in got}) == len(got)
    for message in got:
        event = message.message
        assert (event["specversion"], event["source"]) == ("1.0", f"/run/{live.run_id}")
        assert event["datacontenttype"] == "application/json"
        assert TIME.fullmatch(event["time"])
    types = [m.message["type"] for m in got]
    assert (types[0], types[-1]) == ("run.created", "run.completed")
    url = f"{live.server.url}/api/v1/events?stream=run/{live.run_id}&type=step.log*"
    async with sse(url, live.server.admin) as response:
        assert (await anext(sse_events(response.aiter_raw()))).type == "step.logged"


# -- the channels ---------------------------------------------------------------------------------------


async def received(ws: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [json.loads(await ws.recv()) for _ in range(count)]


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
        await eventually(lambda: followers(live.server) <= before, 5)


async def test_the_status_channel(server: Server) -> None:
    name = next(_names)
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
        json.dumps({"channel": "channel_log", "params": dict.fromkeys(("pipelineId", "jobId", "stepRunId"), "x" * 300_000)}),
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


# -- who may, and what a refusal looks like ------------------------------------------------------------


async def refused(url: str, token: str | None = None, first: Any = None, **more: Any) -> tuple[int, str]:
    """Close code and code of the one error message before it."""
    async with websocket(url, token, **more) as ws:
        if first is not None:
            await ws.send(first)
        code, said = await closing(ws)
    assert len(said) == 1, said
    assert set(said[0]) == {"type", "code", "message", "timestamp"}
    assert said[0]["type"] == "error"
    assert TIME.fullmatch(said[0]["timestamp"])
    return code, said[0]["code"]


async def test_refusals_say_why_and_close_with_their_code(live: Live) -> None:
    url, admin = live.stream(), live.server.admin
    assert await refused(url, "nonsense") == (4401, "unauthorized")
    assert await refused(live.stream("?token=nonsense")) == (4401, "unauthorized")
    assert await refused(url.replace(live.run_id, UNKNOWN), admin) == (4404, "not_found")
    assert await refused(url.replace(live.run_id, "%00"), admin) == (4404, "not_found")
    assert await refused(live.stream("?cursor=nonsense"), admin) == (4400, "bad_request")
    assert await refused(live.stream(f"?cursor={'9' * 5000}"), admin) == (4400, "bad_request")
    assert await refused(live.stream("?cursor=00000000.1.0"), admin) == (4410, "cursor_expired")
    async with websocket(live.stream("?cursor=start"), admin) as ws:
        epoch = json.loads(await ws.recv())["cursor"].split(".")[0]
    ahead = live.stream(f"?cursor={epoch}.999999999.0")
    assert await refused(ahead, admin) == (4410, "cursor_expired")
    cookie = {"Cookie": f"pilot_token={admin}"}
    assert await refused(url, headers=cookie, origin="https://evil.example") == (4403, "forbidden")
    assert await refused(url, headers=cookie) == (4403, "forbidden")
    channels = f"{live.server.ws}/api/v1/ws"
    assert await refused(channels) == (4401, "unauthorized")
    assert await refused(channels, "nonsense") == (4401, "unauthorized")
    assert await refused(channels, headers=cookie, origin="null") == (4403, "forbidden")


async def test_cursors_on_a_channel_that_cannot_be_honoured(live: Live) -> None:
    for cursor, code in (("nonsense", 4400), ("00000000.1.0", 4410), (7, 4400), ({"a": 1}, 4400)):
        async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
            params = {**live.params, "cursor": cursor}
            await ws.send(json.dumps({"channel": "channel_log", "params": params}))
            closed, said = await closing(ws)
            assert closed == code, cursor
            assert [m["type"] for m in said] == ["error"]
            assert said[0]["code"] == ("cursor_expired" if code == 4410 else "bad_request")


async def test_sse_refuses_before_the_stream_starts(live: Live) -> None:
    base, admin = f"{live.server.url}/api/v1", live.server.admin
    run, unknown = f"{base}/workflow-runs/{live.run_id}/stream", f"{base}/workflow-runs/{UNKNOWN}/stream"
    for url, token, status, code in [
        (run, None, 401, "AUTH_TOKEN_MISSING"),
        (run, "nonsense", 401, "AUTH_TOKEN_INVALID"),
        (f"{run}?token={admin}", None, 401, "AUTH_TOKEN_MISSING"),  # in a URL on WebSockets only
        (unknown, admin, 404, "RUN_NOT_FOUND"),
        (f"{run}?cursor=nonsense", admin, 400, "CURSOR_INVALID"),
        (f"{run}?cursor=00000000.1.0", admin, 410, "CURSOR_EXPIRED"),
        (f"{base}/events?cursor=00000000.1.0", admin, 410, "CURSOR_EXPIRED"),
        (f"{base}/events?stream={quote('run/' + live.run_id)}&cursor=-1", admin, 400, "CURSOR_INVALID"),
        (f"{base}/events", None, 401, "AUTH_TOKEN_MISSING"),
    ]:
        async with sse(url, token) as response:
            await response.aread()
            assert (response.status_code, response.json()["code"]) == (status, code), url


async def test_every_way_to_bring_a_token(live: Live) -> None:
    admin = live.server.admin
    auth = json.dumps({"type": "auth", "token": admin})
    origin = live.server.url
    ways: list[tuple[str, dict[str, Any], list[Any]]] = [
        ("", {"token": admin}, []),
        (f"?token={admin}", {}, []),
        ("", {"headers": {"Cookie": f"pilot_token={admin}"}, "origin": origin}, []),
        ("", {}, [auth]),
        ("", {}, [[auth[:9], auth[9:20], auth[20:]]]),  # in fragments
        ("", {}, [auth, '{"type":"pong"}', "and garbage"]),
    ]
    for query, how, first in ways:
        async with websocket(live.stream(query), **how) as ws:
            for message in first:
                await ws.send(message)
            assert json.loads(await ws.recv())["type"] == "step_started"
    for bad in ('{"type":"auth"}', '{"type":"auth","token":7}', '{"type":"pong"}', "garbage", b"\xff",
                '{"type":"auth","token":"nonsense"}', "[1]", "null"):  # fmt: skip
        assert await refused(live.stream(), first=bad) == (4401, "unauthorized"), bad
    for token in (admin, live.server.admin):
        assert token not in live.server.log()


async def test_what_a_client_may_send_to_a_run_stream(live: Live) -> None:
    async with websocket(live.stream(), live.server.admin) as ws:
        for message in ("garbage", "[" * 100_000, b"\x00\xff", "", b"", '{"type":"pong","x":' + "1" * 9999 + "}",
                        "null", "7", '{"type":"auth","token":"x"}'):  # fmt: skip
            await ws.send(message)
        await (await ws.ping())
        await live.say("still here")
        assert [m["type"] for m in await received(ws, 2)] == ["step_started", "step_log"]


@pytest.mark.parametrize("where", ["run", "run-unauthorized", "channels"])
async def test_a_message_that_is_too_big_closes_with_1009(live: Live, where: str) -> None:
    url = f"{live.server.ws}/api/v1/ws" if where == "channels" else live.stream()
    token = None if where == "run-unauthorized" else live.server.admin
    async with websocket(url, token) as ws:

        async def fragments() -> AsyncIterator[str]:
            yield "x" * 1_000_000  # a message may have 1 MiB
            yield "x" * 48_576
            yield "x"

        with pytest.raises(ConnectionClosed):
            await ws.send(fragments())
            while True:
                await ws.recv()
        assert ws.close_code == 1009
    async with websocket(url, token) as ws:
        with pytest.raises(ConnectionClosed):
            await ws.send("x" * (4 << 20))
            while True:
                await ws.recv()
        # What we still send when the server has closed may reset the connection before we read its word.
        assert ws.close_code in (1009, 1006)
    assert live.server.alive


async def test_text_that_is_no_text(live: Live) -> None:
    for url in (live.stream(), f"{live.server.ws}/api/v1/ws"):
        async with websocket(url, live.server.admin) as ws:
            await ws.send(b"\xff\xfe", text=True)
            code, _ = await closing(ws)
            assert code == 1007
    assert live.server.alive


def followers(server: Server) -> float:
    """Open streams, as ``/metrics`` counts them."""
    text = server.call("GET", "/metrics", None).text
    return float(re.findall(r"^pilothouse_stream_followers (\S+)", text, re.M)[0])


async def test_clients_that_vanish_at_once(live: Live) -> None:
    """Gone between the handshake and the first message: nothing is left open, and nobody is alarmed."""
    before, alarms = followers(live.server), live.server.failures()
    path = f"/api/v1/workflow-runs/{live.run_id}/stream"
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    for more in [upgrade, ""] * 20:
        with socket.create_connection(("127.0.0.1", live.server.settings["port"])) as sock:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.server.admin}\r\n{more}\r\n"
            sock.sendall(head.encode())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await live.say("somebody?")
    await eventually(lambda: followers(live.server) <= before, 5)
    assert live.server.alive
    assert live.server.failures() == alarms


async def test_a_client_that_just_vanishes_leaves_nothing_behind(live: Live) -> None:
    before = followers(live.server)
    sockets = []
    async with websocket(f"{live.server.ws}/api/v1/ws", live.server.admin) as ws:
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        await received(ws, 2)
        for _ in range(5):
            sock = socket.create_connection(("127.0.0.1", live.server.settings["port"]))
            head = f"GET /api/v1/workflow-runs/{live.run_id}/stream HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Authorization: Bearer {live.server.admin}\r\n\r\n".encode())
            sockets.append(sock)
        await eventually(lambda: followers(live.server) >= before + 6)
        for sock in sockets:
            sock.close()
        ws.transport.abort()
    await live.say("somebody?")
    await eventually(lambda: followers(live.server) <= before, 5)


# -- time -----------------------------------------------------------------------------------------------


async def test_heartbeats_and_a_client_that_answers(quick: Live) -> None:
    async with websocket(quick.stream("?cursor=now"), quick.server.admin) as ws:
        beats = []
        while len(beats) < 6:
            message = json.loads(await ws.recv())
            assert set(message) == {"type", "timestamp"}
            assert message["type"] == "heartbeat"
            assert TIME.fullmatch(message["timestamp"])
            beats.append(message)
            await ws.send('{"type":"pong"}')
        await quick.say("alive")
        assert json.loads(await ws.recv())["line"] == "alive"


@pytest.mark.parametrize("says", ["nothing", "anything but a pong", "pong, too early"])
async def test_a_silent_client_is_closed_with_4408(quick: Live, says: str) -> None:
    async with websocket(quick.stream("?cursor=now"), quick.server.admin) as ws:
        began = time.monotonic()
        if says == "anything but a pong":
            for _ in range(20):
                await ws.send('{"type":"ping"}')
        elif says != "nothing":
            await ws.send('{"type":"pong"}')  # before the first heartbeat: it answers none of them
        code, said = await closing(ws)
        assert code == 4408
        assert said[-1]["type"] == "error"
        assert {m["type"] for m in said[:-1]} == {"heartbeat"}
        assert 0.85 < time.monotonic() - began < 5


@pytest.mark.parametrize("path", ["/workflow-runs/{}/stream?cursor=now", "/events"])
async def test_the_keepalive_is_exactly_a_comment(quick: Live, path: str) -> None:
    async with sse(f"{quick.server.url}/api/v1{path.format(quick.run_id)}", quick.server.admin) as response:
        seen = b""
        async for chunk in response.aiter_raw():
            seen += chunk
            if seen.count(b"keepalive") == 3:
                break
    comments = seen.split(b"\n\n")
    assert [c for c in comments if c not in (b"", b":")] == [b":keepalive"] * 3


async def test_streams_end_within_5_s_of_their_token(quick: Live) -> None:
    """Expired, revoked, logged out: on all four surfaces; and the one that never came with a token."""
    server = quick.server

    async def ending(token: str, how: str, act: Any) -> None:
        run, base = quick.stream("?cursor=now"), f"{server.url}/api/v1"
        async with (
            websocket(run, token) as ws,
            websocket(f"{server.ws}/api/v1/ws", token) as channels,
            websocket(f"{server.ws}/api/v1/ws", token) as idle,
            sse(f"{base}/workflow-runs/{quick.run_id}/stream?cursor=now", token) as run_sse,
            sse(f"{base}/events", token) as journal,
        ):
            await channels.send(json.dumps({"channel": "channel_log", "params": quick.params}))
            await received(channels, 2)
            pongs = asyncio.create_task(_ponging(ws))
            await asyncio.to_thread(act)
            ended = time.monotonic()
            async with asyncio.timeout(8):
                codes = [(await closing(s))[0] for s in (channels, idle)]
                for response in (run_sse, journal):
                    async for _ in response.aiter_raw():
                        pass
                code, said = await pongs
        assert (code, codes) == (4401, [4401, 4401]), how
        assert said["code"] == "unauthorized"
        assert time.monotonic() - ended < 5.5, how

    brief = server.ask("POST", "/tokens", json={"name": "brief", "expires_in": 3})["token"]
    revoked = server.ask("POST", "/tokens", json={"name": "revoked"})
    session = server.login("admin")
    silent = asyncio.create_task(_silence(quick.stream()))
    await asyncio.gather(
        ending(brief, "expiry", lambda: time.sleep(3)),
        ending(revoked["token"], "revocation", lambda: server.ask("DELETE", f"/tokens/{revoked['id']}")),
        ending(session, "logout", lambda: server.ask("POST", "/auth/logout", session)),
    )
    assert await silent == (4401, "unauthorized")


async def _ponging(ws: ClientConnection) -> tuple[int | None, dict[str, Any]]:
    message: dict[str, Any] = {}
    try:
        async for text in ws:
            message = json.loads(text)
            if message["type"] == "heartbeat":
                await ws.send('{"type":"pong"}')
    except ConnectionClosed:
        pass
    return ws.close_code, message


async def _silence(url: str) -> tuple[int, str]:
    began = time.monotonic()
    found = await refused(url)
    assert 9 < time.monotonic() - began < 15  # 10 s to say who one is
    return found


async def test_what_one_may_no_longer_see_stops_at_once(brisk: Server) -> None:
    name = next(_names)
    token = brisk.user(name)
    project = brisk.project(name, [name])
    live = await begin(brisk, project)
    await live.say("before")
    channels = f"{brisk.ws}/api/v1/ws"
    subscribe = json.dumps({"channel": "channel_log", "params": live.params})
    journal = f"{brisk.url}/api/v1/events"
    async with (
        websocket(live.stream(), token) as ws,
        websocket(channels, token) as log,
        websocket(channels, token) as late,
        sse(live.stream().replace("ws:", "http:"), token) as run_sse,
        sse(f"{journal}?stream=run/{live.run_id}", token) as of_run,
        sse(journal, token) as of_all,
    ):
        await received(ws, 2)
        await log.send(subscribe)
        await received(log, 3)
        watching = [asyncio.create_task(_text(r)) for r in (run_sse, of_run, of_all)]
        watching += [asyncio.create_task(_texts(s)) for s in (ws, log, late)]
        brisk.ask("DELETE", f"/projects/{project}/members/{name}")
        await late.send(subscribe)  # the socket was opened before, the subscription comes after
        await asyncio.sleep(0.1)  # so that a subscription that is wrongly there would be live
        await live.say("confidential")
        await live.end()
        for watched in watching:  # what does not end is asked for long enough to have shown it
            seen = await watched
            assert "confidential" not in seen
            assert "workflow_completed" not in seen
    async with sse(live.stream().replace("ws:", "http:"), token) as response:
        assert response.status_code == 404
    assert await refused(live.stream(), token) == (4404, "not_found")
    await live.agent.vanish()


async def test_a_subscription_is_refused_as_soon_as_the_right_is_gone(brisk: Server) -> None:
    name = next(_names)
    token = brisk.user(name)
    project = brisk.project(name, [name])
    live = await begin(brisk, project)
    async with websocket(f"{brisk.ws}/api/v1/ws", token) as ws:
        brisk.ask("DELETE", f"/projects/{project}/members/{name}")
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        (answer,) = await received(ws, 1)
        assert answer["type"] == "error"
    await live.agent.vanish()


async def _text(response: httpx.Response) -> str:
    seen = ""
    async for chunk in response.aiter_raw():
        seen += chunk.decode()
        if seen.count(":keepalive") >= 5:
            break
    return seen


async def _texts(ws: ClientConnection) -> str:
    seen = ""
    try:
        async with asyncio.timeout(2.5):
            async for text in ws:
                seen += str(text)
    except (TimeoutError, ConnectionClosed):
        pass
    return seen


@pytest.mark.parametrize("which", ["server", "brisk"])
def test_nothing_unforeseen_was_logged(which: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(which).failures() == []


def test_an_upgrade_to_nowhere(server: Server) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    answer = httpx.get(f"{server.url}/api/v1/nowhere", headers=headers)
    assert answer.status_code in (403, 404)
    assert server.alive
