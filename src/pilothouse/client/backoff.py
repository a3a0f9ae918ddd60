"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Doubling delays in seconds, from ``first`` to ``most``; a fifth of each is chance, so that readers spread."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._next = first

    def next(self) -> float:
        """The delay now due."""
        delay, self._next = self._next, min(self._next * 2, self._most)
        return delay * random.uniform(0.8, 1.0)  # noqa: S311 - nothing to guess here

    def reset(self) -> None:
        """It worked: begin again with the shortest."""
        self._next = self._first
