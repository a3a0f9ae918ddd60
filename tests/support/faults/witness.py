"""An agent that follows the contract and records every acknowledged report.

The server dies and comes back meanwhile: each word is repeated until it is acknowledged, under the same number
and id. In the end the journal must hold each of them once and in order, and nothing else (``check``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from support.fake_agent import RUNNING, SUCCESS, FakeAgent, batch, events
from support.faults.checker import Journal
from support.server import Server

T = TypeVar("T")
AGAIN = 0.1  # seconds between two tries
BEAT = 0.5  # seconds between heartbeats
PROGRESS, OUTPUT, MARK = "arcentra.step.progress", "arcentra.step.output", "test.mark"
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # else it would be away for minutes, after many kills
]


class Witness:
    """``lines``, ``events`` and ``states`` are what was acknowledged, by step run id, in order.

    ``too_late``: steps that it could not begin in time; they are never begun.
    """

    def __init__(self, server: Server, name: str, rng: random.Random) -> None:
        self.agent = FakeAgent(server.grpc, name)
        self.agent.channel = grpc.aio.insecure_channel(server.grpc, _OPTIONS)
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.events: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        self.states: dict[str, list[str]] = defaultdict(list)
        self.too_late: set[str] = set()
        self.repeats = 0
        self._rng = rng
        self._seqs = {"logs": 0, "events": 0}
        self._locks = {"logs": asyncio.Lock(), "events": asyncio.Lock()}
        self._works: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []

    @property
    def idle(self) -> bool:
        """Every step it was given is over; raises what went wrong with one."""
        return all(work.done() and work.result() is None for work in self._works.values())

    @contextlib.asynccontextmanager
    async def at_work(self, registration_token: str) -> AsyncIterator[Witness]:
        """Registered, connected, and connected again whenever the server is back."""
        await self.agent.register(registration_token)
        self._loops = [asyncio.create_task(self._stay()), asyncio.create_task(self._take())]
        try:
            yield self
        finally:
            for task in (*self._loops, *self._works.values()):
                task.cancel()
            await asyncio.gather(*self._loops, *self._works.values(), return_exceptions=True)
            await self.agent.vanish()

    async def _stay(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.agent.connect()
                assert self.agent.closed is not None
                while not self.agent.closed.done():
                    await asyncio.wait({self.agent.closed}, timeout=BEAT)
                    await self.agent.beat()
            await asyncio.sleep(AGAIN)

    async def _take(self) -> None:
        while True:
            task = await self.agent.task(3600)
            if task.step_run_id not in self._works:  # a dispatch may come twice
                self._works[task.step_run_id] = asyncio.create_task(self._do(task.step_run_id))

    # -- a step -----------------------------------------------------------------------------------------

    async def _do(self, step: str) -> None:
        if not await self._state(step, RUNNING, "started"):
            self.too_late.add(step)  # an offer that is not taken up in time goes back to the queue
            return
        for at in range(self._rng.randrange(3, 9)):
            await self._say(step, at)
            await self._tell(step, at)
        assert await self._state(step, SUCCESS, "succeeded"), f"{step} was taken away"

    async def _state(self, step: str, status: int, word: str) -> bool:
        answer = await self._until_answered(lambda: self.agent.report(step, status))
        if answer.success:
            self.states[step].append(word)
        return bool(answer.success)

    async def _say(self, step: str, at: int) -> None:
        """Some batches in one call, which the server may have taken in part when it dies."""
        async with self._locks["logs"]:
            first = self._seqs["logs"] + 1
            count = self._rng.randrange(1, 4)
            said = [[f"{at} {n} {m}" for m in range(self._rng.randrange(1, 300))] for n in range(count)]
            requests = [
                batch(step, first + n, lines, id=f"b{first + n}", agent_id=self.agent.agent_id)
                for n, lines in enumerate(said)
            ]
            ack = await self._until_answered(lambda: self.agent.push(*requests))
            self._seqs["logs"] += count
            assert (ack.status, ack.last_accepted_seq) == (1, self._seqs["logs"]), ack
            for lines in said:
                self.lines[step] += lines

    async def _tell(self, step: str, at: int) -> None:
        async with self._locks["events"]:
            told: list[tuple[str, Any]] = [
                (PROGRESS, {"percent": 10 * at, "message": f"at {at}"}),
                (OUTPUT, {"name": f"o{at}", "value": at}),
                (MARK, {"n": at}),
            ]
            first = self._seqs["events"] + 1
            request = events(
                *((f"e{first + n}", first + n, step, type, body) for n, (type, body) in enumerate(told))
            )
            ack = await self._until_answered(lambda: self.agent.push_events(request))
            self._seqs["events"] += len(told)
            assert (ack.status, ack.last_accepted_seq) == (1, self._seqs["events"]), ack
            self.events[step] += told

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except grpc.aio.AioRpcError as error:
                assert error.code() is not grpc.StatusCode.UNAUTHENTICATED, error.details()
                self.repeats += 1
                await asyncio.sleep(AGAIN)

    # -- what came of it --------------------------------------------------------------------------------

    def check(self, journal: Journal) -> None:
        """The journal has every acknowledged report once, in the order of the acknowledgements, and no other."""
        lines: dict[str, list[str]] = defaultdict(list)
        told: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        states: dict[str, list[str]] = defaultdict(list)
        for entry in journal.entries:
            if entry.body.get("agent_id", self.agent.agent_id) != self.agent.agent_id:
                continue
            step, body = entry.body.get("step_run_id", ""), entry.body
            match entry.type:
                case "step.logged":
                    lines[step] += body["lines"]
                case "step.progressed" if step in self.states:
                    told[step].append((PROGRESS, {"percent": body["percent"], "message": body["message"]}))
                case "step.output" if step in self.states:
                    told[step].append((OUTPUT, {"name": body["output"], "value": body["value"]}))
                case "agent.event":
                    told[step].append((body["event_type"], body["payload"]))
                case "step.started":
                    states[step].append("started")
                case "attempt.completed" if body["status"] == "succeeded":
                    states[step].append("succeeded")
        assert dict(states) == dict(self.states), "a change of state is lost, doubled, or nobody's"
        assert dict(lines) == dict(self.lines), "lines are lost, doubled, or out of order"
        assert dict(told) == dict(self.events), "events are lost, doubled, or out of order"
