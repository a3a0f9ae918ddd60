"""One run on every surface: each line once and in order, whatever happens to reader or server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from support.fake_agent import FAILED, RUNNING, batch, events, registered
from support.live_run import TIME, Live, begin, fresh_name, numbered
from support.server import Server, running, spec_for
from support.waiting import PATIENCE, eventually
from support.watchers import (
    END,
    RunWs,
    closing,
    follow,
    lines_of,
    replay,
    sse,
    sse_events,
    websocket,
)


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


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
    """Replay and live are one code path: every message is the same, not only the lines."""
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
    # A cursor counts delivered lines: the log channel resumes at exactly the next.
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
        async with asyncio.timeout(PATIENCE):
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
            async with asyncio.timeout(PATIENCE):
                assert lines_of(await watched) == [*numbered(0, 300), END], name
        for name, surface in live.surfaces(token).items():
            assert lines_of(await replay(surface)) == [*numbered(0, 300), END], name
        assert live.status() == "succeeded"
        assert server.failures() == []
        server.stop()


async def test_a_stalled_reader_misses_nothing_and_does_not_slow_others(live: Live) -> None:
    surfaces = live.surfaces()
    slow = surfaces["run-sse"].watch(None)
    await anext(slow)
    quick = asyncio.create_task(follow(surfaces["run-ws"]))
    lines = [f"{n} " + "x" * 4000 for n in range(4000)]  # more than all socket buffers hold
    for start in range(0, 4000, 200):
        await live.say(*lines[start : start + 200])
    await live.end()
    async with asyncio.timeout(PATIENCE):
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
        async with asyncio.timeout(PATIENCE):
            assert (await closing(ws))[0] == 1000
            for watched in watching:
                assert (await watched)[-1].last


async def test_messages_of_the_run_stream_are_those_of_the_page(server: Server) -> None:
    name = fresh_name()
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
            await agent.report(step, RUNNING)  # what is answered is on disk
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
        assert await closing(ws) == (1000, [])  # nothing is left, which is reported


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
        while (message := json.loads(await ws.recv()))["type"] != "step_log":
            assert message["type"] == "heartbeat"
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


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
