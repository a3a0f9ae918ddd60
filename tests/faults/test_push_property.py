"""PushLogs with whatever may happen to it, by properties: exactly what was acknowledged is stored, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.agent_work import ACCEPTED, OUT_OF_ORDER, Work, begin
from support.fake_agent import batch
from support.faults.fleet import PATIENT, ROUNDS
from support.server import Server, running
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("push"), **PATIENT) as server:
        yield server


@dataclass
class Model:
    """What the server must have: the rules of decisions.md on sequence numbers, in a few lines."""

    lines: list[str] = field(default_factory=list)
    used: dict[int, str] = field(default_factory=dict)
    begun: int = 0
    last: int = 0

    def take(self, seq: int, id: str, line: str) -> int:
        """The status that this batch alone is acknowledged with."""
        if seq <= self.last:
            inside_a_gap = seq not in self.used and seq > self.begun
            return ACCEPTED if self.used.get(seq) == id or inside_a_gap else OUT_OF_ORDER
        self.begun = self.begun or seq
        self.used[seq], self.last = id, seq
        self.lines.append(line)
        return ACCEPTED


@dataclass
class Case:
    """One agent with one step, and everything that it has sent."""

    server: Server
    work: Work
    model: Model = field(default_factory=Model)
    sent: list[tuple[int, str, str]] = field(default_factory=list)
    made: int = 0

    def fresh(self, seq: int) -> tuple[int, str, str]:
        """A new batch under this number."""
        self.made += 1
        one = (seq, f"id-{self.made}", f"{seq}: batch {self.made}")
        self.sent.append(one)
        return one

    async def push(self, *batches: tuple[int, str, str]) -> None:
        """One call that is answered; a batch that is out of order ends it, so it is the last one."""
        expected = ACCEPTED
        for one in batches:
            expected = self.model.take(*one)
            assert expected is ACCEPTED or one is batches[-1]
        ack = await self.work.agent.push(*(self.message(one) for one in batches))
        assert (ack.status, ack.last_accepted_seq) == (expected, self.model.last), (batches, ack)

    def message(self, one: tuple[int, str, str]) -> Any:
        seq, id, line = one
        return batch(self.work.step, seq, [line], id=id)

    async def cut_off(self, *batches: tuple[int, str, str], kill: bool) -> None:
        """A call that ends before its answer; what is stored of it is a beginning of it."""
        enough = asyncio.Event()

        async def requests() -> Any:
            for one in batches:
                yield self.message(one)
            enough.set()
            await asyncio.Event().wait()

        call = self.work.agent.rpc("gateway.v1.GatewayService/PushLogs")(
            requests(), metadata=self.work.agent.metadata
        )
        await asyncio.wait({asyncio.ensure_future(enough.wait()), asyncio.ensure_future(call.code())}, timeout=5,
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        if kill:
            await asyncio.to_thread(self.server.kill9)
            await asyncio.to_thread(self.server.restart)
        call.cancel()
        await self.learn(batches)

    async def learn(self, batches: tuple[tuple[int, str, str], ...]) -> None:
        """What was stored of a call without an answer: the lines say it, and must be a beginning of it."""
        before = len(self.model.lines)

        async def settled() -> bool:
            one = self.work.logged()
            await asyncio.sleep(0.05)
            return one == self.work.logged()

        await eventually(settled)
        stored = self.work.logged()[before:]
        assert stored == [line for _, _, line in batches][: len(stored)], (stored, batches)
        for one in batches[: len(stored)]:
            self.model.take(*one)

    def check(self) -> None:
        assert self.work.logged() == self.model.lines


STEPS = st.one_of(
    st.tuples(st.just("new"), st.integers(1, 5)),
    st.tuples(st.just("gap"), st.integers(2, 9)),
    st.tuples(st.just("inside the last gap"), st.just(0)),
    st.tuples(st.just("again"), st.integers(1, 6)),
    st.tuples(st.just("another id"), st.integers(0, 5)),
    st.tuples(st.just("reordered"), st.integers(2, 4)),
    st.tuples(st.just("cut off"), st.integers(1, 6)),
    st.tuples(st.just("killed"), st.integers(1, 6)),
)


async def play(case: Case, what: str, number: int) -> None:
    """One thing that happens."""
    model = case.model
    after = model.last + 1
    match what:
        case "new":
            await case.push(*(case.fresh(after + n) for n in range(number)))
        case "gap":
            await case.push(case.fresh(model.last + number))
        case "inside the last gap":
            unused = [seq for seq in range(model.begun + 1, model.last) if seq not in model.used]
            if unused:
                await case.push(case.fresh(unused[-1]))
        case "again":
            known = [one for one in case.sent if model.used.get(one[0]) == one[1]]
            if known:
                await case.push(*known[-number:])
        case "another id":
            used = sorted(model.used)
            if used:
                await case.push(case.fresh(used[-1 - number % len(used)]))
        case "reordered":  # the later ones first: what comes late is inside a gap, which was marked
            batches = [case.fresh(after + n) for n in range(number)]
            if model.last:
                await case.push(batches[-1], *batches[:-1])
        case _:
            batches = tuple(case.fresh(after + n) for n in range(number))
            await case.cut_off(*batches, kill=what == "killed")
            await case.push(*batches)  # as an agent does: what was not acknowledged comes again


@settings(
    max_examples=6 * ROUNDS,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, min_size=3, max_size=8))
def test_exactly_what_was_acknowledged_is_stored(server: Server, steps: list[tuple[str, int]]) -> None:
    async def example() -> None:
        work = await begin(server)
        case = Case(server, work)
        for what, number in steps:
            await play(case, what, number)
        case.check()
        await work.agent.vanish()

    asyncio.run(example())


def test_every_kind_of_trouble_once(server: Server) -> None:
    """The same with each of them, whatever hypothesis chooses."""
    story = [
        ("new", 3), ("again", 3), ("gap", 4), ("inside the last gap", 0), ("another id", 1), ("reordered", 3),
        ("cut off", 4), ("killed", 5), ("again", 6), ("new", 1),
    ]  # fmt: skip

    async def example() -> None:
        work = await begin(server)
        case = Case(server, work)
        for what, number in story:
            await play(case, what, number)
            case.check()
        assert len(case.model.lines) > 10
        await work.agent.vanish()

    asyncio.run(example())
