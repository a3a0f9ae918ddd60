"""The coarse timer that wakes waiting tasks."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.journal.timers import STEP, Timers


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """Remembers when it was woken."""

    def __init__(self, then: Callable[[float], None] = lambda _: None) -> None:
        self.woken: list[float] = []
        self._then = then

    def tick(self, now: float) -> None:
        self.woken.append(now)
        self._then(now)


def run_until(timers: Timers, clock: Clock, end: float) -> None:
    while clock.now < end:
        clock.now += STEP
        timers.run_due()


@given(st.lists(st.floats(min_value=-5, max_value=60), max_size=20))
def test_everyone_is_woken_once_and_never_early(waits: list[float]) -> None:
    clock = Clock()
    timers, began = Timers(clock), clock.now
    sleepers = [(Timed(), wait) for wait in waits]
    for who, wait in sleepers:
        timers.schedule(who, began + wait)
    run_until(timers, clock, began + 70)
    for who, wait in sleepers:
        assert len(who.woken) == 1
        assert max(wait, 0) <= who.woken[0] - began <= max(wait, 0) + 2 * STEP


def test_a_new_wish_replaces_the_old() -> None:
    clock = Clock()
    timers, who = Timers(clock), Timed()
    timers.schedule(who, clock.now + 2)
    timers.schedule(who, clock.now + 10)
    run_until(timers, clock, 1020)
    assert [at >= 1010 for at in who.woken] == [True]


def test_who_left_is_not_woken_even_in_the_same_turn() -> None:
    clock = Clock()
    timers = Timers(clock)
    second = Timed()
    first = Timed(lambda _: timers.cancel(second))
    for who in (first, second):
        timers.schedule(who, clock.now + 1)
    run_until(timers, clock, 1010)
    assert (len(first.woken), len(second.woken)) == (1, 0)
    timers.cancel(second)  # harmless


def test_a_failing_waiter_does_not_block_others() -> None:
    clock = Clock()
    timers, after = Timers(clock), Timed()

    def fail(_now: float) -> None:
        raise RuntimeError("bad sleeper")

    timers.schedule(Timed(fail), clock.now + 1)
    timers.schedule(after, clock.now + 1)
    run_until(timers, clock, 1010)
    assert len(after.woken) == 1


def test_it_can_ask_again_while_it_is_woken() -> None:
    clock = Clock()
    timers = Timers(clock)
    who = Timed(lambda now: timers.schedule(who, now + 5))
    timers.schedule(who, clock.now + 5)
    run_until(timers, clock, 1033)
    assert len(who.woken) == 6


def test_a_clock_that_jumps_wakes_all_that_are_overdue() -> None:
    clock = Clock()
    timers, early, late = Timers(clock), Timed(), Timed()
    timers.schedule(early, clock.now + 3)
    timers.schedule(late, clock.now + 400)
    clock.now += 300
    timers.run_due()
    assert (len(early.woken), len(late.woken)) == (1, 0)
