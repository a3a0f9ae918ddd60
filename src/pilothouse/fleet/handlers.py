"""What the owners of work register with the fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection

from pilothouse.access.model import Principal
from pilothouse.fleet.model import Lease, Task, TaskReport, Verdict
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


class WorkSource(Protocol):
    """Hands out waiting work to an agent that asks for it."""

    def has_work(self, agent_id: str) -> bool:
        """Whether work was waiting for this agent when work was last assigned; a look into memory."""

    def fetch(self, tx: Tx, agent_id: str, most: int) -> list[Task]:
        """Lease waiting work to the agent: at most so many tasks, and no more than it has free slots."""


class WorkControl(Protocol):
    """Cancels work, and applies reports on whole jobs. ``check_…`` and ``held_of_job`` only read."""

    def check_step_run(self, conn: Connection, by: Principal, step_run_id: str, agent_id: str = "") -> None:
        """Raise what :meth:`cancel_step_run` would raise."""

    def cancel_step_run(
        self, tx: Tx, by: Principal, step_run_id: str, reason: str, agent_id: str = ""
    ) -> None:
        """Cancel a step run. Raises :class:`Refusal`."""

    def check_job(self, conn: Connection, by: Principal, job_id: str) -> None:
        """Raise what :meth:`cancel_job` would raise."""

    def cancel_job(self, tx: Tx, by: Principal, job_id: str, reason: str) -> None:
        """Cancel what is left of a job. Raises :class:`Refusal`."""

    def held_of_job(self, conn: Connection, by: Principal, job_id: str) -> list[str]:
        """The step runs of a job that the agent holds. Raises :class:`Refusal`."""

    def report_job(self, tx: Tx, by: Principal, job_id: str, report: TaskReport) -> Verdict:
        """Apply an agent's report on a job to the step runs of it that the agent holds. Raises :class:`Refusal`."""


Encoder = Callable[[Task], Any]
"""Encodes a task of one kind for one channel; the channel's adapter says as what (``grpc``: ``agent.v1.StepRun``)."""
