"""Time on the event loop for work that has no hurry, shared by those that want it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SHARE = 0.004
"""Seconds of one iteration of the event loop."""


class Turns:
    """A share of each iteration of the event loop, and a queue of those for whom nothing was left.

    Whoever has work does it in small pieces, and asks before each whether the share is :attr:`over`.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._end: float | None = None
        self._waiting: dict[Callable[[], None], None] = {}
        self._resuming = False

    @property
    def over(self) -> bool:
        """Whether the share is used up, or others have waited for longer. The first question begins an iteration."""
        if self._end is None:
            self._end = time.monotonic() + self._share
            asyncio.get_running_loop().call_soon(self._next)
            return False
        return (bool(self._waiting) and not self._resuming) or time.monotonic() >= self._end

    def add(self, work: Callable[[], None]) -> None:
        """Call this in a later iteration, once however often it is added; it may find the share used up again."""
        self._waiting.setdefault(work)

    def _next(self) -> None:
        """A new iteration: those that wait go on, in order; the first of them asks the first question."""
        self._end, self._resuming = None, True
        try:
            while self._waiting and self._time_left():
                work = next(iter(self._waiting))
                del self._waiting[work]
                work()
        finally:
            self._resuming = False

    def _time_left(self) -> bool:
        return self._end is None or time.monotonic() < self._end
