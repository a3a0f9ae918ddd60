"""The queue of the pool: bounded, and fair between callers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from pilothouse.workers.errors import PoolClosed, QueueFull


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of the queue. A job that can run at once is always accepted.

    ``per_caller``, ``total``: jobs. ``caller_bytes``, ``total_bytes``: bytes of their arguments.
    """

    per_caller: int = 32
    total: int = 256
    caller_bytes: int = 128 << 20
    total_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    turn: asyncio.Future[None]
    size: int


LIGHT = 256 << 10
"""A job with at most so many bytes of arguments is light, unless the caller's last jobs were long."""
LONG = 2.0
"""Seconds from which on a job counts as long."""
REMEMBERED = 10.0
"""A long job makes its caller's further jobs heavy, so many times as long as it took; at most :data:`FORGOTTEN`."""
FORGOTTEN = 120.0
"""Seconds."""


class Turns:
    """At most ``slots`` turns are held at once. Waiting callers get turns in rotation, whatever the number of jobs of
    each. If there is more than one slot, no caller holds all of them, so that its long jobs leave others one slot.
    One slot is for light jobs alone, so that these do not wait for the heavy ones of several callers."""

    def __init__(self, slots: int, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = slots
        self._each = self._heavies = max(1, slots - 1)
        self._bounds = bounds
        self._clock = clock
        self._heavy: Counter[str] = Counter()  # heavy turns that are held, by caller
        self._since: dict[str, deque[float]] = {}  # when the turns that are held began, by caller
        self._slow: dict[str, float] = {}  # until when a caller's jobs are heavy, whatever their size
        self._queues: dict[str, deque[_Waiting]] = {}  # in the order of their next turns; no queue is empty
        self._held: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._closed = False

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    async def take(self, caller: str, size: int) -> None:
        """Wait for a turn. ``size``: bytes that are kept while waiting. Raises QueueFull, PoolClosed."""
        if self._closed:
            raise PoolClosed("the pool is closed")
        if self._free and caller not in self._queues and self._may(caller, size):
            self._hold(caller, size)
            return
        entry = self._enqueue(caller, size)
        try:
            await entry.turn
        except asyncio.CancelledError:
            if entry.turn.cancelled():
                self._remove(caller, entry)
            elif entry.turn.exception() is None:  # granted in the same iteration of the event loop
                self.give_back(caller)
            raise

    def give_back(self, caller: str) -> None:
        """End a turn; the next caller gets it."""
        self._release(caller)
        while self._free:
            following = next(
                (name for name, own in self._queues.items() if self._may(name, own[0].size)), None
            )
            if following is None:
                return
            entry = self._queues[following][0]
            self._remove(following, entry)
            if following in self._queues:  # to the end of the rotation
                self._queues[following] = self._queues.pop(following)
            if not entry.turn.done():
                self._hold(following, entry.size)
                entry.turn.set_result(None)

    def close(self) -> None:
        """Grant no more turns: waiting callers get PoolClosed."""
        self._closed = True
        for queue in self._queues.values():
            for entry in queue:
                if not entry.turn.done():
                    entry.turn.set_exception(PoolClosed("the pool is closed"))
        self._queues.clear()
        self._bytes.clear()

    def _may(self, caller: str, size: int) -> bool:
        """Whether a free slot is for this job."""
        if self._held[caller] >= self._each:
            return False
        return self._is_light(caller, size) or self._heavy.total() < self._heavies

    def _is_light(self, caller: str, size: int) -> bool:
        return size <= LIGHT and self._slow.get(caller, 0.0) <= self._clock()

    def _hold(self, caller: str, size: int) -> None:
        self._free -= 1
        self._held[caller] += 1
        self._since.setdefault(caller, deque()).append(self._clock())
        if not self._is_light(caller, size):
            self._heavy[caller] += 1

    def _release(self, caller: str) -> None:
        """Of a caller who holds several turns, the oldest, and a heavy one before a light one."""
        now = self._clock()
        self._free += 1
        self._held[caller] -= 1
        if self._heavy[caller] > 1:
            self._heavy[caller] -= 1
        else:
            del self._heavy[caller]
        since = self._since[caller]
        took = now - since.popleft()
        if not self._held[caller]:
            del self._held[caller], self._since[caller]
        if took >= LONG:
            self._slow = {name: until for name, until in self._slow.items() if until > now}
            self._slow[caller] = now + min(FORGOTTEN, REMEMBERED * took)

    def _enqueue(self, caller: str, size: int) -> _Waiting:
        own = len(self._queues.get(caller, ()))
        bounds = self._bounds
        if own >= bounds.per_caller or self._bytes[caller] + size > bounds.caller_bytes:
            raise QueueFull("caller", own)
        if self.waiting >= bounds.total or self._bytes.total() + size > bounds.total_bytes:
            raise QueueFull("total", self.waiting)
        entry = _Waiting(asyncio.get_running_loop().create_future(), size)
        self._queues.setdefault(caller, deque()).append(entry)
        self._bytes[caller] += size
        return entry

    def _remove(self, caller: str, entry: _Waiting) -> None:
        queue = self._queues.get(caller)
        if queue is None or entry not in queue:
            return
        queue.remove(entry)
        self._bytes[caller] -= entry.size
        if not queue:
            del self._queues[caller], self._bytes[caller]
