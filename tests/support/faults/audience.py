"""Viewers of runs for each transport, which reconnect with their cursor."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pilothouse.client import Event, PilotClient, Unreachable
from support.faults.checker import Journal, Lines, lines_by_node
from support.server import Server
from support.watchers import Got, RunSse, RunWs, follow, websocket


async def watched(server: Server, token: str, run_id: str) -> AsyncGenerator[Event, None]:
    """The product's client. It reconnects by itself, but the first connection is retried here."""
    async with PilotClient(server.url, token) as client:
        while True:
            seen = False
            try:
                async with aclosing(client.watch_run(run_id)) as events:
                    async for event in events:
                        seen = True
                        yield event
                return
            except Unreachable:
                assert not seen, "the client gave up on a stream it had"


async def by_client(server: Server, token: str, run_id: str) -> dict[str, list[str]]:
    """The product's own client."""
    found: dict[str, list[str]] = defaultdict(list)
    async with aclosing(watched(server, token, run_id)) as events:
        async for event in events:
            if event.type == "step.logged":
                found[f"{event.data['job']}/{event.data['step']}"] += event.data["lines"]
    return dict(found)


async def by_socket(server: Server, token: str, run_id: str) -> dict[str, list[str]]:
    """The run stream, as a WebSocket."""
    return _by_node(await follow(RunWs(server, token, run_id)))


async def by_sse(server: Server, token: str, run_id: str) -> dict[str, list[str]]:
    """The run stream, as SSE."""
    return _by_node(await follow(RunSse(server, token, run_id)))


def _by_node(got: list[Got]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for one in got:
        if one.lines:
            found[one.message["nodeId"]] += one.lines
    return dict(found)


@dataclass(frozen=True)
class Channel:
    """``channel_log`` of ``/api/v1/ws``, up to a line that is known to be the last."""

    server: Server
    token: str
    params: Mapping[str, str]
    last: str

    async def watch(self, cursor: str | None) -> Any:
        """See ``support.watchers.Surface``."""
        async with websocket(f"{self.server.ws}/api/v1/ws", self.token) as ws:
            params = {**self.params, "cursor": cursor or "start"}
            await ws.send(json.dumps({"channel": "channel_log", "params": params}))
            async for text in ws:
                message = json.loads(text)
                assert message["type"] != "error", message
                data = message["data"] or []
                lines = tuple(log["content"] for log in (data if isinstance(data, list) else [data]))
                yield Got(message, lines, message.get("cursor"), self.last in lines)


async def by_channel(server: Server, token: str, run_id: str, node: str, last: str) -> list[str]:
    """The log channel of a step's first attempt, from the moment there is one."""
    params = None
    async with aclosing(watched(server, token, run_id)) as events:
        async for event in events:
            if event.type == "step.queued" and f"{event.data['job']}/{event.data['step']}" == node:
                pipeline = event.data["pipeline_id"]
                ids = (pipeline, event.data["job_id"], event.data["step_run_id"])
                params = dict(zip(("pipelineId", "jobId", "stepRunId"), ids, strict=True))
                break
    assert params is not None, f"{node} was never queued"
    return [line for got in await follow(Channel(server, token, params, last)) for line in got.lines]


class Audience:
    """All viewers of some runs, and the entries each must receive."""

    def __init__(self, server: Server, token: str) -> None:
        self._server, self._token = server, token
        self._watching: dict[tuple[str, str], tuple[asyncio.Task[Any], Any]] = {}
        self._following: dict[tuple[str, str], asyncio.Task[dict[str, list[str]]]] = {}

    def watch(self, run_id: str, expected: Lines) -> None:
        """One viewer of each kind on a run."""
        everything = {node: list(lines) for node, lines in expected.items() if lines}
        for kind, viewer in (("client", by_client), ("websocket", by_socket), ("sse", by_sse)):
            wanted = everything if kind == "client" else _as_nodes(everything)
            self._add(run_id, kind, viewer(self._server, self._token, run_id), wanted)
        for node, lines in everything.items():
            viewing = by_channel(self._server, self._token, run_id, node, lines[-1])
            self._add(run_id, f"channel {node}", viewing, lines)

    def follow(self, run_id: str) -> None:
        """Viewers of a run of several jobs whose output is not known in advance."""
        for kind, viewer in (("client", by_client), ("websocket", by_socket), ("sse", by_sse)):
            viewing = viewer(self._server, self._token, run_id)
            self._following[run_id, kind] = asyncio.create_task(viewing)

    async def agrees(self, journal: Journal, timeout: float = 120.0) -> int:
        """They have seen what the journal says, until the end of each run; returns the count of lines they saw."""
        count = 0
        async with asyncio.timeout(timeout):
            for (run_id, kind), task in self._following.items():
                entries = journal.of_run(run_id)
                end = next(at for at, entry in enumerate(entries) if entry.type == "run.completed")
                seen = await task
                assert seen == lines_by_node(entries[:end]), f"{kind} of run {run_id} saw something else"
                count += sum(map(len, seen.values()))
        return count

    async def check(self, timeout: float = 60.0) -> None:
        """All have seen all, once and in order; raises what went wrong for the first who has not."""
        async with asyncio.timeout(timeout):
            for (run_id, kind), (task, wanted) in self._watching.items():
                try:
                    assert await task == wanted, f"{kind} of run {run_id} saw something else"
                except TimeoutError:
                    raise AssertionError(f"{kind} of run {run_id} has not seen the end") from None

    def leave(self) -> None:
        """For teardown."""
        for task in (*(task for task, _ in self._watching.values()), *self._following.values()):
            task.cancel()

    def _add(self, run_id: str, kind: str, viewing: Any, wanted: Any) -> None:
        self._watching[run_id, kind] = (asyncio.create_task(viewing), wanted)


def _as_nodes(expected: dict[str, list[str]]) -> dict[str, list[str]]:
    """The run stream names a step alone where the run has one job only (decisions.md)."""
    if len({node.split("/")[0] for node in expected}) > 1:
        return expected
    return {node.split("/")[1]: lines for node, lines in expected.items()}


def check_surfaces(server: Server, run_id: str, expected: Lines) -> None:
    """``/logs`` of each step has its lines, once and in order."""
    for node, lines in expected.items():
        job, step = node.split("/")
        answer = server.call("GET", f"/workflow-runs/{run_id}/logs", params={"job": job, "step": step})
        assert answer.text.splitlines() == list(lines), f"/logs of {node}"
