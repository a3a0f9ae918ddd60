"""What the owners of work register with the fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection

from pilothouse.fleet.model import Lease, Task, TaskReport
from pilothouse.storage import Tx

MAX_ERROR = 4096
"""Characters of an agent's message about a task."""
MAX_METRICS, MAX_METRIC = 100, 256
"""How many metrics a report may have, and how many characters a name or value."""


class TaskHandler(Protocol):
    """What the owner of a kind of work does with its tasks, in the transaction of the fleet's use case."""

    def started(self, tx: Tx, lease: Lease) -> None:
        """The agent has started the task."""

    def finished(self, tx: Tx, lease: Lease, report: TaskReport) -> None:
        """The agent has reported the end of the task; its lease is deleted."""

    def lost(self, tx: Tx, lease: Lease, reason: str) -> None:
        """The agent will not finish the task; its lease is deleted."""

    def task(self, tx: Tx, lease: Lease) -> Task | None:
        """The task again, to be resent; ``None`` if it can no longer be handed out."""

    def cancel_reason(self, tx: Tx, lease: Lease) -> str | None:
        """Why the task should be stopped, if it should."""

    def repeated(self, conn: Connection, agent_id: str, report: TaskReport) -> bool:
        """Whether this result was accepted from this agent before."""


class Screen(Protocol):
    """Masks secrets in the texts of a report before the transaction, since that can be costly."""

    async def __call__(self, agent_id: str, task_id: str, texts: Sequence[str], most: int) -> list[str]:
        """The texts as they may be stored, each at most ``most`` characters; never fails.

        ``task_id`` empty: texts of the agent itself, in which the secrets of all its tasks are masked.
        """


Encoder = Callable[[Task], Any]
"""Encodes a task of one kind for one channel; the channel's adapter says as what (``grpc``: ``agent.v1.StepRun``)."""
