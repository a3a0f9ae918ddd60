"""A real browser follows a run with ``EventSource``, which reconnects, and with the documented WebSocket script."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support.conformance.browser import Browser, browser
from support.fake_agent import batch
from support.live_run import Live, begin, numbered
from support.server import Server, running
from support.waiting import eventually
from support.watchers import END, Got, replay

ENTRIES = [
    *("run.created", "run.started", "job.started", "step.queued", "step.waiting", "step.started"),
    *("step.progressed", "step.logged", "step.output", "attempt.completed", "step.completed"),
    *("job.completed", "run.completed"),
]
MESSAGES = ["step_started", "step_progress", "step_log", "step_completed", "workflow_completed"]

DOCUMENTED = re.compile(r"### JavaScript: WebSocket\n+```js\n(.+?)```", re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("browser"), lease=30) as server:
        yield server


@pytest.fixture
async def live(server: Server) -> AsyncIterator[Live]:
    live = await begin(server)
    yield live
    await live.agent.vanish()


class Pushing:
    """Batches of five lines, each sent under the same number until it is acknowledged, wherever the server is."""

    def __init__(self, live: Live, batches: int) -> None:
        self.live = live
        self.lines = numbered(0, batches * 5)
        self._next = 1

    async def some(self, batches: int) -> None:
        """So many more."""
        for number in range(self._next, self._next + batches):
            await self._push(batch(self.live.step, number, self.lines[number * 5 - 5 : number * 5]))
            self._next = number + 1

    async def rest(self) -> None:
        """All the others, and the end of the run."""
        await self.some(len(self.lines) // 5 - self._next + 1)
        await self.live.agent.vanish()
        await self.live.agent.connect()
        await self._push(batch(self.live.step, self._next, [END]))
        await self.live.agent.finish(self.live.task)

    async def _push(self, request: Any) -> None:
        while True:
            try:
                assert (await self.live.agent.push(request)).status == 1
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)  # the server is away


def as_events(got: list[Got]) -> list[tuple[str | None, str, dict[str, Any]]]:
    return [(message.cursor, message.message["type"], message.message) for message in got]


async def test_comes_back_by_itself_after_a_killed_server(server: Server, live: Live) -> None:
    events = f"/api/v1/events?stream=run/{live.run_id}"
    stream = f"/api/v1/workflow-runs/{live.run_id}/stream"
    async with browser(server) as chromium:
        await chromium.collect("events", events, ENTRIES)
        await chromium.collect("stream", stream, MESSAGES)
        await follow_as_documented(chromium, server, live)
        pushing = Pushing(live, 200)
        await pushing.some(20)
        for name in ("events", "stream"):
            await eventually(lambda name=name: chromium.got(name))
        pushed = asyncio.create_task(pushing.rest())
        await asyncio.to_thread(server.kill9)
        before = {name: await chromium.got(name) for name in ("events", "stream")}
        await asyncio.to_thread(server.restart)
        await pushed
        for name, path, surface in (("events", events, "events"), ("stream", stream, "run-sse")):
            last = ENTRIES[-1] if name == "events" else MESSAGES[-1]

            async def ended(name: str = name, last: str = last) -> bool:
                return (await chromium.got(name))[-1][1] == last

            await eventually(ended)
            got = await chromium.got(name)
            seen = [(id, type, json.loads(data)) for id, type, data in got]
            assert seen == as_events(await replay(live.surfaces()[surface])), name
            first, *again = await chromium.last_event_ids(path)
            assert first is None
            assert len(set(again)) == 1, "it was away once, and asked until the server was back"
            ids = [id for id, _, _ in got]
            assert again[0] in ids[len(before[name]) - 1 : -1], "it came back with the id of what it had last"
        await eventually(lambda: END in chromium.said)
        assert lines_said(chromium) == [*pushing.lines, END]
        assert chromium.errors == []
    assert server.failures() == []


async def test_a_websocket_from_cursor_to_cursor(server: Server, live: Live) -> None:
    """With the login's cookie; no compression is offered, and every close is clean."""
    async with browser(server) as chromium:
        await live.say(*numbered(0, 10))
        await chromium.chat("socket", f"/api/v1/workflow-runs/{live.run_id}/stream", 7)
        for start in range(10, 40, 3):
            await live.say(*numbered(start, start + 3))
        await live.end()

        async def ended() -> bool:
            return bool((await chromium.told("socket"))["over"])

        await eventually(ended)
        told = await chromium.told("socket")
        again = await replay(live.surfaces()["run-ws"])
        assert [json.loads(text) for text in told["messages"]] == [
            {**message.message, "cursor": message.cursor} for message in again
        ]
        assert len(told["ends"]) > len(again) // 7
        assert told["ends"][-1] == [1000, True]
        # 1000 before that: its close and the server's at the end of the run crossed, and it was not listening any more.
        assert all(code in (1000, 1005) and clean for code, clean in told["ends"])
        assert told["extensions"] == [""] * len(told["ends"])
        assert chromium.errors == []
    assert server.failures() == []


async def test_a_message_that_is_too_big_is_refused_with_1009(server: Server) -> None:
    async with browser(server) as chromium:
        assert await chromium.end_of_large_message("/api/v1/ws", 1 << 20) == 0
        codes = [await chromium.end_of_large_message("/api/v1/ws", 4 << 20) for _ in range(10)]
        assert codes == [1009] * 10


async def follow_as_documented(chromium: Browser, server: Server, live: Live) -> None:
    """The WebSocket script of docs/streams.md, word for word but for the address."""
    page = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    found = DOCUMENTED.search(page)
    assert found
    script = found[1].replace("wss://pilot.example", server.ws)
    await chromium.page.evaluate(
        f"(() => {{ const run = {live.run_id!r}, token = {server.admin!r};\n{script} }})()"
    )


def lines_said(chromium: Browser) -> list[str]:
    """Messages logged by scripts; the browser itself logs failed connections."""
    return [text for text in chromium.said if text.startswith("line ") or text == END]
