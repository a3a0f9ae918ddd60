"""Run as a program: a team that uses the server as it is meant, and measures how long that takes.

Its arguments are JSON: ``port``, ``grpc``, ``tokens``, ``registration``, ``pipeline``, ``long``. It lists runs, starts a
run of its pipeline and follows it to its end, follows a long run whose lines it pushes itself, sends heartbeats, and
calls over gRPC. Each is begun at fixed times, whether or not the one before has been answered, so that every moment at
which the server does not answer is seen.

Commands are JSON lines on stdin: ``{"seconds": n}`` answers with all delays of what was begun within that time, and what
went wrong since the last command.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from faults.neighbours.client import Client
from support.fake_agent import FakeAgent
from support.wire_table import table

NAME = "neighbour"
EVERY = {"list": 0.1, "run": 0.34, "line": 0.1, "beat": 0.15, "call": 0.2, "check": 0.5}
"""Seconds between two of a kind."""
SPEC = json.dumps({"spec": {"jobs": [{"name": "j", "steps": [{"name": "s", "run": "true"}]}]}}).encode()
BEAT = 0.5
"""Seconds between heartbeats on ``Connect``, which have no answer."""


class Neighbour:
    """``delays``: (begun, kind, seconds) of each operation."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.client = Client(given["port"])
        self.agent = FakeAgent(given["grpc"], NAME, slots=64)
        self.pipeline, self.long, self.registration = given["pipeline"], given["long"], given["registration"]
        self.tokens = itertools.cycle(given["tokens"])
        self.delays: list[tuple[float, str, float]] = []
        self.problems: list[str] = []
        self.pending: dict[asyncio.Task[None], float] = {}
        self.last_run = ""
        self.long_run = self.long_step = ""
        self._seen: dict[str, asyncio.Future[None]] = {}
        self._loops: set[asyncio.Task[None]] = set()
        self._unsent: list[str] = []
        self._pushing = asyncio.Lock()

    async def begin(self) -> None:
        """Become an agent, and have the long run begin."""
        await self.agent.register(self.registration)
        await self.agent.connect()
        self.long_run = await self._trigger(self.long)
        task = await self.agent.task()
        self.long_step = task.step_run_id
        await self.agent.ack(task)
        for loop in (self._beats(), self._work(), self._follow()):
            self._spawn(loop)
        await self._run()  # until it has, nothing is measured
        for kind, operation in (
            ("list", self._list), ("run", self._run), ("line", self._line), ("beat", self._beat), ("call", self._call),
            ("check", self._check),
        ):  # fmt: skip
            self._spawn(self._periodically(kind, operation))

    def _spawn(self, loop: Any) -> None:
        task = asyncio.create_task(loop)
        self._loops.add(task)
        task.add_done_callback(lambda done: self._ended(done))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._loops.discard(task)
        if not task.cancelled():
            self.problems.append(f"it stopped: {task.exception()!r}")

    # -- the measure --------------------------------------------------------------------------------------

    async def measure(self, seconds: float) -> dict[str, Any]:
        """See above."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        ended = time.monotonic()
        due = [task for task, at in self.pending.items() if at < ended]
        if due:
            await asyncio.wait(due, timeout=60)
        found: dict[str, list[float]] = defaultdict(list)
        for at, kind, took in self.delays:
            if began <= at < ended:
                found[kind].append(took)
        self.delays.clear()
        problems, self.problems = self.problems, []
        if any(not task.done() for task in due):
            problems.append("some operations had no end within 60 s")
        return {"delays": found, "problems": problems, "long_run": self.long_run}

    async def _periodically(self, kind: str, operation: Callable[[], Awaitable[None]]) -> None:
        due = time.monotonic()
        while True:
            due += EVERY[kind]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._timed(kind, operation, due))
            self.pending[task] = due
            task.add_done_callback(self.pending.pop)

    async def _timed(self, kind: str, operation: Callable[[], Awaitable[None]], begun: float) -> None:
        # Our own process may have been late; the server is not to blame for that.
        started = time.monotonic()
        try:
            await operation()
        except Exception as error:  # whatever it is, it is told
            self.problems.append(f"{kind}: {type(error).__name__}: {error}"[:300])
        self.delays.append((begun, kind, time.monotonic() - started))

    # -- what it does -------------------------------------------------------------------------------------

    async def _list(self) -> None:
        answer = await self.client.ask("GET", "workflow-runs?limit=20", next(self.tokens))
        assert answer.status == 200, answer.outcome

    async def _trigger(self, pipeline: str) -> str:
        answer = await self.client.ask("POST", f"pipelines/{pipeline}/trigger", next(self.tokens), b"{}")
        assert answer.status in (200, 201), answer.outcome
        return str(json.loads(answer.body)["detail"]["runId"])

    async def _run(self) -> None:
        run_id = await self._trigger(self.pipeline)
        path = f"/api/v1/workflow-runs/{run_id}/stream"
        async with asyncio.timeout(60), self.client.events(path, next(self.tokens)) as events:
            async for data in events:
                message = json.loads(data)
                if message["type"] == "workflow_completed":
                    assert message["status"] == "succeeded", message
                    self.last_run = run_id
                    return
        raise AssertionError("the stream ended before the run")

    async def _line(self) -> None:
        text = f"at {time.monotonic_ns()}"
        seen = self._seen[text] = asyncio.get_running_loop().create_future()
        self._unsent.append(text)
        async with (
            self._pushing
        ):  # what is printed while a batch is on its way is the next batch, as an agent does it
            if lines := self._unsent:
                self._unsent = []
                await self.agent.lines(self.long_step, lines)
        async with asyncio.timeout(60):
            await seen

    async def _beat(self) -> None:
        await self.agent.call("agent.v1.AgentService/Heartbeat", agent_id=NAME)

    async def _call(self) -> None:
        request = table().message("stream.v1.StreamJobStatusRequest")(pipeline_run_id=self.last_run)
        rpc = self.agent.rpc("stream.v1.StreamService/StreamJobStatus")
        call = rpc(request, metadata=(("authorization", f"Bearer {next(self.tokens)}"),), timeout=60)
        assert [message async for message in call], "no status of a run that has ended"

    async def _check(self) -> None:
        answer = await self.client.ask("POST", "pipelines/spec/validate", next(self.tokens), SPEC)
        assert answer.status == 200, answer.outcome

    # -- what goes on meanwhile ---------------------------------------------------------------------------

    async def _beats(self) -> None:
        while True:
            await self.agent.beat()
            assert self.agent.closed is not None
            if self.agent.closed.done():
                raise AssertionError(f"Connect ended: {self.agent.closed.result()}")
            if self.agent.cancelled:
                raise AssertionError(f"work was taken away: {self.agent.cancelled}")
            await asyncio.sleep(BEAT)

    async def _work(self) -> None:
        while True:
            task = await self.agent.task(3600)
            await self.agent.ack(task)
            await self.agent.finish(task)

    async def _follow(self) -> None:
        path = f"/api/v1/events?stream=run/{self.long_run}"
        async with self.client.events(path, next(self.tokens)) as events:
            async for data in events:
                for line in json.loads(data)["data"].get("lines", ()):
                    if (seen := self._seen.pop(line, None)) is not None and not seen.done():
                        seen.set_result(None)


async def main(given: dict[str, Any]) -> None:
    """Until stdin ends."""
    neighbour = Neighbour(given)
    await neighbour.begin()
    print(json.dumps({"ready": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await neighbour.measure(json.loads(line)["seconds"])), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(json.loads(sys.argv[1])))
