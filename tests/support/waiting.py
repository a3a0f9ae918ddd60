"""Waiting for something to become true, without guessing how long it takes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that only something that never happens takes, on however busy a machine."""


async def eventually(condition: Callable[[], T | Awaitable[T]], timeout: float = PATIENCE) -> T:
    """Ask until the answer is true, and give it; an :class:`AssertionError` after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        answer: T = await found if inspect.isawaitable(found) else found
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.02)
