"""The coarse clock that wakes those who wait for time to pass."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.journal.pulse import STEP, Pulse


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sleeper:
    """Remembers when it was woken."""

    def __init__(self, then: Callable[[float], None] = lambda _: None) -> None:
        self.woken: list[float] = []
        self._then = then

    def tick(self, now: float) -> None:
        self.woken.append(now)
        self._then(now)


def turn_until(pulse: Pulse, clock: Clock, end: float) -> None:
    while clock.now < end:
        clock.now += STEP
        pulse.turn()


@given(st.lists(st.floats(min_value=-5, max_value=60), max_size=20))
def test_everyone_is_woken_once_and_never_early(waits: list[float]) -> None:
    clock = Clock()
    pulse, began = Pulse(clock), clock.now
    sleepers = [(Sleeper(), wait) for wait in waits]
    for who, wait in sleepers:
        pulse.wake(who, began + wait)
    turn_until(pulse, clock, began + 70)
    for who, wait in sleepers:
        assert len(who.woken) == 1
        assert max(wait, 0) <= who.woken[0] - began <= max(wait, 0) + 2 * STEP


def test_a_new_wish_replaces_the_old() -> None:
    clock = Clock()
    pulse, who = Pulse(clock), Sleeper()
    pulse.wake(who, clock.now + 2)
    pulse.wake(who, clock.now + 10)
    turn_until(pulse, clock, 1020)
    assert [at >= 1010 for at in who.woken] == [True]


def test_who_left_is_not_woken_even_in_the_same_turn() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    second = Sleeper()
    first = Sleeper(lambda _: pulse.forget(second))
    for who in (first, second):
        pulse.wake(who, clock.now + 1)
    turn_until(pulse, clock, 1010)
    assert (len(first.woken), len(second.woken)) == (1, 0)
    pulse.forget(second)  # harmless


def test_one_who_fails_keeps_nobody_from_waking() -> None:
    clock = Clock()
    pulse, after = Pulse(clock), Sleeper()

    def fail(_now: float) -> None:
        raise RuntimeError("bad sleeper")

    pulse.wake(Sleeper(fail), clock.now + 1)
    pulse.wake(after, clock.now + 1)
    turn_until(pulse, clock, 1010)
    assert len(after.woken) == 1


def test_it_can_ask_again_while_it_is_woken() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    who = Sleeper(lambda now: pulse.wake(who, now + 5))
    pulse.wake(who, clock.now + 5)
    turn_until(pulse, clock, 1033)
    assert len(who.woken) == 6


def test_a_clock_that_jumps_wakes_all_that_are_overdue() -> None:
    clock = Clock()
    pulse, early, late = Pulse(clock), Sleeper(), Sleeper()
    pulse.wake(early, clock.now + 3)
    pulse.wake(late, clock.now + 400)
    clock.now += 300
    pulse.turn()
    assert (len(early.woken), len(late.woken)) == (1, 0)
