"""A run whose one step the test itself carries out, and what the tests of its streams share."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from websockets.asyncio.client import ClientConnection

from support.fake_agent import FakeAgent, Task, registered
from support.server import Server, spec_for
from support.waiting import PATIENCE, eventually
from support.watchers import (
    END,
    LogChannel,
    RunEvents,
    RunSse,
    RunWs,
    Surface,
    closing,
    websocket,
)

UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


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


_names = iter(f"run-{number}" for number in range(1000))


def fresh_name() -> str:
    """An unused name."""
    return next(_names)


async def begin(server: Server, project: str = "") -> Live:
    name = fresh_name()
    agent = await registered(server, name)
    pipeline_id = server.pipeline(name, spec_for(name), project=project)
    run_id = server.trigger(pipeline_id)
    task = await agent.task()
    await agent.ack(task)
    live = Live(server, agent, pipeline_id, run_id, task)
    await eventually(lambda: live.view()["jobs"][0]["steps"][0]["status"] == "running")
    return live


def numbered(start: int, stop: int) -> list[str]:
    return [f"line {n}" for n in range(start, stop)]


async def received(ws: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(PATIENCE):
        return [json.loads(await ws.recv()) for _ in range(count)]


async def refused(url: str, token: str | None = None, first: Any = None, **more: Any) -> tuple[int, str]:
    """Close code and code of the one error message before it."""
    async with websocket(url, token, **more) as ws:
        if first is not None:
            await ws.send(first)
        code, said = await closing(ws)
    assert len(said) == 1, said
    envelope = {"channel", "params", "data", "error"} if "/api/v1/ws" in url else set()
    assert set(said[0]) == {"type", "code", "message", "timestamp"} | envelope
    assert said[0].get("error", said[0]["message"]) == said[0]["message"]
    assert said[0]["type"] == "error"
    assert TIME.fullmatch(said[0]["timestamp"])
    return code, said[0]["code"]


def followers(server: Server) -> float:
    """Open streams, as ``/metrics`` counts them."""
    return server.metric("pilothouse_stream_followers")
