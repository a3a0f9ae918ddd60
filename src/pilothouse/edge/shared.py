"""Answers that are the same for everyone: computed once, however many ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """The result of ``make``, computed at most once within ``keep`` seconds (from the end of the computation).

    Whoever asks during a computation waits for it; its errors are not kept. Lives on one event loop.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[T]],
        keep: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._keep = keep
        self._clock = clock
        self._making: asyncio.Task[T] | None = None
        self._until = float("-inf")

    async def get(self) -> T:
        """The current result. Raises what ``make`` raised."""
        making = self._making
        if making is None or (making.done() and (self._clock() >= self._until or _failed(making))):
            making = self._making = asyncio.create_task(self._made())
        return await asyncio.shield(making)  # who goes away must not cancel it for the others

    async def _made(self) -> T:
        result = await self._make()
        self._until = self._clock() + self._keep
        return result


def _failed(task: asyncio.Task[T]) -> bool:
    return task.cancelled() or task.exception() is not None
