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


async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    timeout: float = PATIENCE,
    *,
    progress: Callable[[], object] | None = None,
) -> T:
    """Ask until the answer is true, and give it; an :class:`AssertionError` after ``timeout`` seconds.

    ``progress``: whatever changes while things go on, however slowly; the time then counts from its last change.
    """
    end, before = time.monotonic() + timeout, progress and progress()
    while True:
        found = condition()
        answer: T = await found if inspect.isawaitable(found) else found
        if answer:
            return answer
        if progress is not None and (now := progress()) != before:
            end, before = time.monotonic() + timeout, now
        if time.monotonic() > end:
            stuck = "" if progress is None else f" since there was {before}"
            raise AssertionError(f"not within {timeout:g} s{stuck}: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.02)


def slowness() -> float:
    """How much longer than its CPU time something takes here and now: 1 on an idle machine, 5 on one that is busy.

    For bounds in seconds that a contract gives: what is allowed on top of them is multiplied with it.
    """
    began, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < 0.1:
        pass
    return max(1.0, (time.monotonic() - began) / 0.1)
