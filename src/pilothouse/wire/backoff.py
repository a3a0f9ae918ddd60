"""Exponential backoff with jitter."""

from __future__ import annotations

import asyncio
import random

SHORTEST = 0.2
LONGEST = 10.0


class Backoff:
    """Delays in seconds that double from ``shortest`` to ``longest``, each reduced at random by up to a half."""

    def __init__(self, shortest: float = SHORTEST, longest: float = LONGEST) -> None:
        self._shortest = shortest
        self._longest = longest
        self._next = shortest

    def reset(self) -> None:
        """Start again with the shortest delay, after a success."""
        self._next = self._shortest

    def delay(self) -> float:
        """The delay after one more failure."""
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return random.uniform(delay / 2, delay)  # noqa: S311 - jitter need not be unpredictable

    async def sleep(self) -> None:
        """Wait for :meth:`delay` seconds."""
        await asyncio.sleep(self.delay())
