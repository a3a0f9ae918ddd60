"""How many processes of git use the network at the same time, so that no caller takes them all."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from pilothouse.access.errors import Refusal

TOTAL, EACH = 8, 2
"""Processes at a time: of all callers, and of one caller or project."""
WAITING = 20
"""How many more of one caller may wait."""


class Slots:
    """A slow forge keeps its slot until git gives up, so a caller's slots are fewer than there are."""

    def __init__(self, total: int = TOTAL, each: int = EACH, waiting: int = WAITING) -> None:
        self._total = asyncio.Semaphore(total)
        self._each = each
        self._most = each + waiting
        self._of: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Wait for a slot of the caller ``key``. Raises ``CALLER_QUEUE_FULL``."""
        if self._users[key] >= self._most:
            raise Refusal.of("CALLER_QUEUE_FULL", "Too many requests of yours wait for git repositories")
        mine = self._of.setdefault(key, asyncio.Semaphore(self._each))
        self._users[key] += 1
        try:
            async with mine, self._total:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._of[key]
