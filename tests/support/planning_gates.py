"""What stands in for the service of gates where a run is planned in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from support.planning_rows import CONNECTION

if TYPE_CHECKING:
    from support.planning import Sim


@dataclass
class FakeGates:
    """The service of gates. ``on_open`` and ``on_due`` script them; by default a gate stays open, and times out.

    They give the status the gate ends with, or the milliseconds until it is looked at again (0: never).
    """

    sim: Sim
    open: list[str] = field(default_factory=list)
    on_open: Callable[[], Status | int] = lambda: 0
    on_due: Callable[[], Status | int] = lambda: Status.TIMED_OUT

    def opened(self, tx: Any, run: Run, job: Job, step: Step, attempt: Attempt) -> None:
        """See ``GateHandler``."""
        assert not run.cancelling
        assert not run.paused_at
        assert not job.stopping
        self._check(tx, run)
        self.open.append(attempt.id)
        self._go_on(tx, job, step, self.on_open())

    def due(self, tx: Any, run: Run, job: Job, step: Step) -> None:
        """See ``GateHandler``."""
        self._check(tx, run)
        assert step.current in self.open
        assert 0 < step.deadline <= self.sim.now
        self._go_on(tx, job, step, self.on_due())

    def closed(self, tx: Any, run: Run, attempt: Attempt) -> None:
        """See ``GateHandler``."""
        self._check(tx, run)
        self.open.remove(attempt.id)

    def child_ended(self, tx: Any, child: Run) -> None:
        """See ``GateHandler``."""

    def _check(self, tx: Any, run: Run) -> None:
        assert tx.conn is CONNECTION
        assert run is self.sim.run

    def _go_on(self, tx: Any, job: Job, step: Step, what: Status | int) -> None:
        if isinstance(what, Status):
            self.sim.steps.end_attempt(tx, self.sim.run, job, step, what)
        else:
            step.deadline = self.sim.now + what if what else 0
            self.sim.rows.note(step)
