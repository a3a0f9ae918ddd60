"""Waiting step attempts for agents that ask for work (``FetchStepRun``)."""

from __future__ import annotations

from collections.abc import Mapping

from pilothouse.engine.dispatch import Dispatcher, Fetching
from pilothouse.fleet.handlers import Encoder
from pilothouse.fleet.model import POLL, Task
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Tx

MAX_ANSWER = 3 << 20
"""Bytes of step runs in one answer: clients of gRPC take 4 MiB, unless they ask for more."""


class Fetcher:
    """Implements :class:`pilothouse.fleet.handlers.WorkSource` with the scheduler.

    An agent that asks takes part in one round of the scheduler, beside the agents that are connected: so it gets work
    on the same terms, and nothing that another agent with a free slot and less load would get.
    """

    def __init__(self, fleet: Fleet, dispatcher: Dispatcher) -> None:
        self._fleet = fleet
        self._dispatcher = dispatcher

    def has_work(self, agent_id: str) -> bool:
        """See :class:`WorkSource`."""
        return agent_id in self._dispatcher.fetchers

    def fetch(self, tx: Tx, agent_id: str, most: int) -> list[Task]:
        """See :class:`WorkSource`."""
        room = _Room(self._fleet.encoders(POLL))
        fetching = Fetching(agent_id, most, room.fits)
        self._dispatcher.dispatch(tx, fetching)
        return fetching.tasks


class _Room:
    """Counts the bytes of one answer."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        self._encoders = encoders
        self._left = MAX_ANSWER

    def fits(self, task: Task) -> bool:
        """Whether there is space for this task, too; then it is taken up."""
        size = int(self._encoders[task.kind](task).ByteSize())
        if size > self._left:
            return False
        self._left -= size
        return True
