"""Coarse timers: one periodic task serves any number of waiting connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger("pulse")

STEP = 0.5
"""Seconds between two rounds; the resolution of keepalives and heartbeats."""


class Timed(Protocol):
    """An object with a timer."""

    def tick(self, now: float) -> None:
        """Called when the timer is due, at ``now``; schedule again if needed."""


class Timers:
    """Timers by the round in which they are due: a round only costs time for due timers. No I/O."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._turn = int(clock() / STEP)
        self._due: dict[int, dict[Timed, None]] = {}
        self._when: dict[Timed, int] = {}

    def schedule(self, who: Timed, at: float) -> None:
        """Call ``who.tick`` once, at ``at`` (of the clock) or up to a step later; replaces its previous timer."""
        self.cancel(who)
        turn = max(self._turn, int(at / STEP)) + 1
        self._when[who] = turn
        self._due.setdefault(turn, {})[who] = None

    def cancel(self, who: Timed) -> None:
        """Cancel the timer, if there is one."""
        turn = self._when.pop(who, None)
        group = None if turn is None else self._due.get(turn)
        if turn is not None and group is not None:
            group.pop(who, None)
            if not group:
                del self._due[turn]

    def run_due(self) -> None:
        """Call all objects that are due; to be called every :data:`STEP` seconds."""
        now = self.clock()
        self._turn = max(self._turn, int(now / STEP))
        for turn in sorted(t for t in self._due if t <= self._turn):
            for who in self._due.pop(turn):
                if self._when.pop(who, None) is not None:  # otherwise another's tick has cancelled it
                    self._tick(who, now)

    def _tick(self, who: Timed, now: float) -> None:
        try:
            who.tick(now)
        except Exception:  # an error in one callback must not affect the others
            log.exception("pulse.tick_failed")
