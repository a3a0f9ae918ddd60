"""When agents were last heard of: the time at which a message was read, not that at which the writer processed it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pilothouse.storage import now_ms


@dataclass(frozen=True, slots=True)
class Heard:
    """What a check of silence knows beside the database.

    ``at``: by agent, when its last heartbeat arrived (ms). ``unread``: agents whose messages this server does not
    read at the moment, since too many of them wait for the writer; they are not silent.
    """

    at: Mapping[str, int]
    unread: frozenset[str] = frozenset()

    def last(self, agent_id: str, now: int) -> int:
        """When the agent gave its last sign of life, as far as is known here; 0: never."""
        return now if agent_id in self.unread else self.at.get(agent_id, 0)


NOBODY = Heard({})


class Arrivals:
    """Lives on the event loop."""

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        """``clock`` gives ms since 1970."""
        self._clock = clock
        self._at: dict[str, int] = {}
        self._unread: Counter[str] = Counter()

    def heard(self, agent_id: str) -> None:
        """A heartbeat of the agent has arrived."""
        self._at[agent_id] = self._clock()

    def last(self, agent_id: str) -> int:
        """When the agent was last heard of here (ms); 0 if that is long ago."""
        return self._at.get(agent_id, 0)

    @contextmanager
    def not_reading(self, agent_id: str) -> Iterator[None]:
        """Messages of the agent are not read meanwhile."""
        self._unread[agent_id] += 1
        try:
            yield
        finally:
            self.heard(agent_id)  # what was sent meanwhile is read from now on
            self._unread[agent_id] -= 1
            if not self._unread[agent_id]:
                del self._unread[agent_id]

    def since(self, time: int) -> Heard:
        """What was heard since then (ms); older arrivals are forgotten."""
        self._at = {agent_id: at for agent_id, at in self._at.items() if at >= time}
        return Heard(dict(self._at), frozenset(self._unread))
