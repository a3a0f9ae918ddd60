"""Waiting longer after each failure, and never all at the same moment."""

from __future__ import annotations

import asyncio
import random

SHORTEST = 0.2  # seconds
LONGEST = 10.0


class Backoff:
    """Pauses that double from `SHORTEST` to `LONGEST`, each cut by up to a half at random."""

    def __init__(self) -> None:
        self._next = SHORTEST

    def reset(self) -> None:
        self._next = SHORTEST

    def delay(self) -> float:
        """Seconds to wait after one more failure."""
        chosen = random.uniform(self._next / 2, self._next)  # noqa: S311  # nobody gains by guessing it
        self._next = min(LONGEST, self._next * 2)
        return chosen

    async def sleep(self) -> None:
        await asyncio.sleep(self.delay())
