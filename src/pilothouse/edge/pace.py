"""Requests that no rate limit counts begin a few at a time, so that a flood of them does not delay other work."""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 2
"""Requests that begin in one iteration of the event loop; each costs about a millisecond."""


class Pace:
    """Lets at most ``at_once`` requests begin in an iteration of the event loop; addresses take turns.

    Nothing is refused, and a request that has begun holds no place: one that waits for the database delays nobody.
    The number of waiting requests is bounded by the number of connections. Lives on one event loop.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._begun = 0
        self._ticking = False
        self._waiting: dict[
            str, deque[asyncio.Future[None]]
        ] = {}  # the address whose turn is next comes first

    async def turn(self, address: str) -> None:
        """Wait until a request of this address may begin."""
        if self._begun < self._at_once and not self._waiting:
            self._begun += 1
            self._tick()
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(place)
        self._tick()
        await place

    def _tick(self) -> None:
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """A new iteration: the next ones begin."""
        self._ticking, self._begun = False, 0
        while self._waiting and self._begun < self._at_once:
            address = next(iter(self._waiting))
            places = self._waiting.pop(address)
            place = places.popleft()
            if places:
                self._waiting[address] = places  # behind the others
            if not place.done():  # otherwise its request was cancelled
                place.set_result(None)
                self._begun += 1
        if self._begun:
            self._tick()
