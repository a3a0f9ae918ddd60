"""A coarse clock for many: who waits for time to pass is woken from one timer, however many wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger("pulse")

STEP = 0.5
"""Seconds between two turns; the resolution of keepalives and heartbeats."""


class Sleeper(Protocol):
    """Somebody who waits."""

    def tick(self, now: float) -> None:
        """The time has come (it is ``now``); ask for another if there is more to wait for."""


class Pulse:
    """Sleepers by the turn at which they are due: a turn costs what is due, not what waits. No I/O."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._turn = int(clock() / STEP)
        self._due: dict[int, dict[Sleeper, None]] = {}
        self._when: dict[Sleeper, int] = {}

    def wake(self, who: Sleeper, at: float) -> None:
        """Call ``who.tick`` once, at ``at`` (of the clock) or up to a step later; replaces its last wish."""
        self.forget(who)
        turn = max(self._turn, int(at / STEP)) + 1
        self._when[who] = turn
        self._due.setdefault(turn, {})[who] = None

    def forget(self, who: Sleeper) -> None:
        """Do not call it; harmless when it does not wait."""
        turn = self._when.pop(who, None)
        group = None if turn is None else self._due.get(turn)
        if turn is not None and group is not None:
            group.pop(who, None)
            if not group:
                del self._due[turn]

    def turn(self) -> None:
        """Wake all that are due by now; call every :data:`STEP` seconds."""
        now = self.clock()
        self._turn = max(self._turn, int(now / STEP))
        for turn in sorted(t for t in self._due if t <= self._turn):
            for who in self._due.pop(turn):
                if self._when.pop(who, None) is not None:  # else another's tick has made it leave
                    self._tick(who, now)

    def _tick(self, who: Sleeper, now: float) -> None:
        try:
            who.tick(now)
        except Exception:  # one sleeper's trouble is not the others'
            log.exception("pulse.tick_failed")
