"""What one agent may cost the writer without effect; in memory, for each server."""

from __future__ import annotations

from collections.abc import Callable

from pilothouse.edge.limits import Window
from pilothouse.storage import now_ms

MAX_CHANGES = 120
"""Registrations and changes of labels of one agent in a minute."""
MAX_STALE = 600
"""Reports of one agent in a minute about work that it does not hold."""
MINUTE = 60_000


class Budgets:
    """Counts of each agent. Lives on the event loop."""

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        """``clock`` gives ms since 1970."""
        self._clock = clock
        self._changes = Window(MAX_CHANGES, MINUTE)
        self._stale = Window(MAX_STALE, MINUTE)
        self._refused: dict[str, int] = {}

    def change(self, agent_id: str) -> None:
        """Count a change of what the agent says of itself. Raises :class:`RateLimited`."""
        self._changes.hit(agent_id, self._clock()).check()

    def stale(self, agent_id: str) -> None:
        """A report of the agent had no effect."""
        count = self._stale.hit(agent_id, self._clock())
        if not count.allowed:
            self._refused[agent_id] = count.reset

    def check_reports(self, agent_id: str) -> None:
        """Raises :class:`RateLimited` if the agent has reported too often what it does not hold."""
        until = self._refused.get(agent_id)
        if until is None:
            return
        if until > self._clock():
            self._stale.hit(agent_id, self._clock()).check()
        self._refused.pop(agent_id, None)
