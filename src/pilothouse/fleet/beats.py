"""Heartbeats of one connection: however many arrive, one is written at a time, and few in a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from pilothouse.fleet.model import Condition

MAX_GAP = 0.5
"""Seconds between two heartbeats of a connection that are written."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat says: ``holds`` are the tasks of the agent, if it lists them; ``first``: of its connection."""

    holds: frozenset[str] | None
    condition: Condition
    first: bool = False


class Beats:
    """Passes heartbeats on to ``write``: the first at once, of those that follow too soon only the last.

    Lives on the event loop. ``write`` gives a future that is done when the heartbeat is stored.
    """

    def __init__(self, write: Callable[[Beat], asyncio.Future[None]], gap: float) -> None:
        """``gap``: seconds between two heartbeats that are written."""
        self._write = write
        self._gap = gap
        self._waiting: Beat | None = None
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def offer(self, beat: Beat) -> None:
        """A heartbeat has arrived."""
        if self._waiting is not None and self._waiting.first:
            beat = replace(beat, first=True)
        self._waiting = beat
        if not self._writing and self._timer is None:
            self.flush()

    def flush(self) -> None:
        """Write a waiting heartbeat now, since another message follows it and their order counts."""
        beat, self._waiting = self._waiting, None
        if beat is None:
            return
        self._writing = True
        self._write(beat).add_done_callback(self._written)

    def close(self) -> None:
        """The connection has ended; a waiting heartbeat is dropped."""
        self._waiting, self._closed = None, True
        if self._timer is not None:
            self._timer.cancel()

    def _written(self, _: asyncio.Future[None]) -> None:
        self._writing = False
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._gap, self._due)

    def _due(self) -> None:
        self._timer = None
        if not self._writing:
            self.flush()
