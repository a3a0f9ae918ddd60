"""The queue of the worker pool: its bounds, and whose turn is next."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.workers.errors import Abandoned, PoolClosed, QueueFull
from pilothouse.workers.interest import Interest, interest
from pilothouse.workers.turns import LIGHT, LONG, REMEMBERED, Bounds, Turns


class Desk:
    """Callers of ``Turns``, and the order in which they got theirs."""

    def __init__(self, slots: int, bounds: Bounds = Bounds()) -> None:
        self.now = 1000.0
        self.turns = Turns(slots, bounds, lambda: self.now)
        self.order: list[str] = []

    async def ask(self, caller: str, size: int = 1) -> asyncio.Task[None]:
        async def take() -> None:
            await self.turns.take(caller, size)
            self.order.append(caller)

        task = asyncio.create_task(take())
        await settle()
        return task

    async def give_back(self, caller: str) -> None:
        self.turns.give_back(caller)
        await settle()


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_callers_take_turns_whatever_the_number_of_their_jobs() -> None:
    desk = Desk(1)
    for caller in ["a"] * 6 + ["b", "c", "b"]:
        await desk.ask(caller)
    while len(desk.order) < 9:
        await desk.give_back(desk.order[-1])
    assert "".join(desk.order) == "aabcabaaa"


async def test_one_caller_never_holds_all_slots() -> None:
    desk = Desk(2)
    for _ in range(3):
        await desk.ask("a")
    assert desk.order == ["a"]
    await desk.ask("b")
    assert desk.order == ["a", "b"]
    await desk.give_back("b")
    assert desk.order == ["a", "b"], "the free slot is not for a second job of the same caller"
    await desk.give_back("a")
    assert desk.order == ["a", "b", "a"]


async def test_light_jobs_do_not_wait_for_the_heavy_ones_of_several_callers() -> None:
    desk = Desk(2)
    for caller in "abc":
        await desk.ask(caller, LIGHT + 1)
    assert desk.order == ["a"], "one slot is for light jobs"
    await desk.ask("d")
    assert desk.order == ["a", "d"]
    await desk.give_back("d")
    assert desk.order == ["a", "d"]
    await desk.give_back("a")
    assert desk.order == ["a", "d", "b"]


async def test_whose_jobs_take_long_has_only_heavy_ones_for_a_while() -> None:
    desk = Desk(2)
    await desk.ask("a")
    desk.now += LONG
    await desk.give_back("a")
    await desk.ask("b", LIGHT + 1)
    await desk.ask("a")
    assert desk.order == ["a", "b"], "a's last job was long"
    await desk.ask("c")
    assert desk.order == ["a", "b", "c"]
    await desk.give_back("c")
    desk.now += REMEMBERED * LONG
    await desk.ask("d")
    await desk.give_back("d")
    assert desk.order == ["a", "b", "c", "d", "a"], "it is forgotten"


async def test_who_can_run_at_once_does_not_wait_behind_those_who_cannot() -> None:
    desk = Desk(2)
    await desk.ask("a")
    await desk.ask("a")
    await desk.ask("b")
    assert desk.order == ["a", "b"]


async def test_bound_per_caller() -> None:
    desk = Desk(1, Bounds(per_caller=2))
    for _ in range(3):
        await desk.ask("a")
    with pytest.raises(QueueFull) as caught:
        await desk.turns.take("a", 1)
    assert caught.value.bound == "caller"
    await desk.ask("b")
    assert desk.turns.waiting == 3


async def test_bound_in_total() -> None:
    desk = Desk(1, Bounds(total=2))
    for caller in "abc":
        await desk.ask(caller)
    with pytest.raises(QueueFull) as caught:
        await desk.turns.take("d", 1)
    assert caught.value.bound == "total"


@pytest.mark.parametrize(("caller", "bound"), [("a", "caller"), ("b", "total")])
async def test_bounds_in_bytes(caller: str, bound: str) -> None:
    desk = Desk(1, Bounds(caller_bytes=100, total_bytes=150))
    await desk.ask("a", 10_000)  # runs at once, does not wait
    await desk.ask("a", 60)
    await desk.ask("a", 40)
    with pytest.raises(QueueFull) as caught:
        await desk.turns.take(caller, 51)
    assert caught.value.bound == bound
    await desk.ask("b", 50)
    await desk.give_back("a")
    await desk.ask("a", 60)
    assert desk.turns.waiting == 3


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    desk = Desk(1, Bounds(per_caller=1))
    await desk.ask("a")
    for _ in range(3):
        waiting = await desk.ask("a")
        waiting.cancel()
        await settle()
    await desk.ask("a")
    assert desk.turns.waiting == 1


async def test_a_job_for_which_nobody_waits_any_more_leaves_the_queue() -> None:
    desk = Desk(1, Bounds(per_caller=1))
    await desk.ask("a")
    gone = Interest()
    token = interest.set(gone)
    waiting = await desk.ask("a")
    interest.reset(token)
    gone.end()
    await settle()
    assert isinstance(waiting.exception(), Abandoned)
    await desk.ask("a")  # there is room again
    assert desk.turns.waiting == 1
    await desk.give_back("a")
    assert desk.order == ["a", "a"]


async def test_a_job_that_has_its_turn_is_done_even_if_nobody_waits() -> None:
    desk = Desk(1)
    await desk.ask("a")
    gone = Interest()
    token = interest.set(gone)
    late = await desk.ask("b")
    interest.reset(token)
    desk.turns.give_back("a")  # now it is b's
    gone.end()
    await settle()
    assert late.exception() is None
    assert desk.order == ["a", "b"]


async def test_a_turn_that_comes_as_its_caller_gives_up_goes_on() -> None:
    desk = Desk(1)
    await desk.ask("a")
    late = await desk.ask("b")
    await desk.ask("c")
    desk.turns.give_back("a")  # now it is b's, who has not noticed
    late.cancel()
    await settle()
    assert desk.order == ["a", "c"]


async def test_closing() -> None:
    desk = Desk(1)
    await desk.ask("a")
    waiting, gave_up = await desk.ask("a"), await desk.ask("b")
    desk.turns.close()
    gave_up.cancel()
    await settle()
    assert isinstance(waiting.exception(), PoolClosed)
    with pytest.raises(PoolClosed):
        await desk.turns.take("c", 1)
    desk.turns.give_back("a")
    with pytest.raises(PoolClosed):
        await desk.turns.take("c", 1)


@given(
    slots=st.integers(1, 4),
    acts=st.lists(st.tuples(st.sampled_from(["ask", "back", "cancel"]), st.integers(0, 5)), max_size=60),
)
def test_whatever_happens_slots_are_used_and_none_twice(slots: int, acts: list[tuple[str, int]]) -> None:
    asyncio.run(_simulate(slots, acts))


async def _simulate(slots: int, acts: list[tuple[str, int]]) -> None:
    turns = Turns(slots, Bounds(per_caller=3, total=9))
    held: list[str] = []
    tasks: list[tuple[str, asyncio.Task[None]]] = []

    async def take(caller: str) -> None:
        await turns.take(caller, 1)
        held.append(caller)

    for act, number in acts:
        if act == "ask":
            caller = "abc"[number % 3]
            tasks.append((caller, asyncio.create_task(take(caller))))
        elif act == "back" and held:
            turns.give_back(held.pop(number % len(held)))
        elif act == "cancel" and tasks:
            tasks[number % len(tasks)][1].cancel()
        if number != 5:  # otherwise several events occur before the check
            await settle()
    await settle()
    each = max(1, slots - 1)
    assert len(held) <= slots
    assert max(Counter(held).values(), default=0) <= each
    waiting = Counter(caller for caller, task in tasks if not task.done())
    assert waiting.total() == turns.waiting
    if len(held) < slots:
        assert all(Counter(held)[caller] == each for caller in waiting), (
            "a slot is free, and somebody may use it"
        )
    turns.close()
    await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
