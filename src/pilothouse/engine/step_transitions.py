"""All changes of the state of steps and attempts, with their journal entries, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import orjson
from uuid_utils import uuid7

from pilothouse.engine import store
from pilothouse.engine.checkouts import doubt
from pilothouse.engine.graph_json import selector_to_json
from pilothouse.engine.model import JOB_ENDED, Attempt, Job, Run, Status, Step
from pilothouse.engine.plan import after_failure
from pilothouse.engine.records import RunRecords
from pilothouse.engine.selectors import combined
from pilothouse.engine.standing import around, span
from pilothouse.engine.unstarted import first_attempt, unstarted
from pilothouse.fleet.model import LeaseState
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Tx
from pilothouse.wire import entries


class GateHandler(Protocol):
    """The part of the gate service that transitions use. All methods run in the transaction of the change."""

    def opened(self, tx: Tx, run: Run, job: Job, step: Step, attempt: Attempt) -> None:
        """A gate was opened; it may be settled immediately (``StepTransitions.end_attempt``)."""

    def due(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        """The deadline of an open gate has passed: settle it, or set another deadline."""

    def closed(self, tx: Tx, run: Run, attempt: Attempt) -> None:
        """A gate has ended, for any reason."""

    def child_ended(self, tx: Tx, child: Run) -> None:
        """A run for which a gate waits has ended."""


class StepTransitions:
    """The transitions of steps: attempts are queued, start, end and are stopped; gates open and close."""

    def __init__(self, records: RunRecords, fleet: Fleet) -> None:
        self._records = records
        self._fleet = fleet
        self._gates: GateHandler | None = None

    def handle_gates(self, gates: GateHandler) -> None:
        """Register the gate service."""
        self._gates = gates

    @property
    def gates(self) -> GateHandler:
        """The gate service."""
        assert self._gates is not None, "the engine's module names it"
        return self._gates

    def queue(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        """Create the next attempt and queue it for an agent."""
        # The agent that starts a job holds its workspace, so it must also match the selectors of later steps.
        coming = job.spec.steps[step.index : step.index + 1 if job.agent_id else None]
        wanted = combined(one.selector for one in coming)
        attempt = self._next_attempt(run, job, step, Status.QUEUED)
        attempt.selector = orjson.dumps(selector_to_json(wanted)).decode() if wanted else ""
        attempt.queued_at = tx.now
        previous = self._begin(tx, run, job, step, attempt)
        self._records.append(
            tx, run, entries.STEP_QUEUED, job, step, attempt, previous=previous, reason="", **around(job)
        )
        for wake in self._fleet.wakers:
            tx.after_commit(wake)

    def open_gate(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        """Open the step's gate; the time limits of its job are suspended."""
        attempt = self._next_attempt(run, job, step, Status.RUNNING)
        attempt.queued_at = attempt.started_at = step.started_at = tx.now
        job.held_at = tx.now
        store.save_part(tx.conn, run.id, job)
        previous = self._begin(tx, run, job, step, attempt)
        self._records.append(
            tx,
            run,
            entries.STEP_STARTED,
            job,
            step,
            attempt,
            previous=previous,
            agent_id="",
            gate=job.step_spec(step).gate,
            **around(job),
        )
        self.gates.opened(tx, run, job, step, attempt)

    def _next_attempt(self, run: Run, job: Job, step: Step, status: Status) -> Attempt:
        number = step.attempts + 1
        if number == 1 and not step.kept:
            return first_attempt(run, job, step, status)
        return Attempt(id=str(uuid7()), step_id=step.id, number=number, status=status)

    def _begin(self, tx: Tx, run: Run, job: Job, step: Step, attempt: Attempt) -> Status:
        previous = job.move(step, attempt.status)
        step.attempts, step.current, step.not_before = attempt.number, attempt.id, 0
        job.set_outputs(step, {})  # outputs of a previous attempt are discarded
        store.insert_attempt(tx.conn, run.id, attempt)
        store.save_part(tx.conn, run.id, step)
        if job.not_before:
            job.not_before = 0
            store.save_part(tx.conn, run.id, job)
        return previous

    def stop(self, tx: Tx, run: Run, job: Job, step: Step, status: Status, reason: str) -> None:
        """Stop the current attempt; if an agent holds it, it ends with the agent's report."""
        step.stopping, step.reason = status.value, reason
        store.save_part(tx.conn, run.id, step)
        if self._fleet.withdraw(tx, step.current, reason) is not LeaseState.STARTED:
            self.end_attempt(tx, run, job, step, status, error=reason)

    def abandon(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        """End the current attempt of a job that restarts; later reports of its agent are ignored."""
        why = "the job begins again"
        self._fleet.withdraw(tx, step.current, why)
        job.move(step, Status.PENDING)
        self.close_attempt(tx, run, job, step, Status.CANCELLED, error=why, retry_at=tx.now)

    # -- reports of agents ------------------------------------------------------------------------------

    def start_attempt(self, tx: Tx, run: Run, job: Job, step: Step, attempt: Attempt, agent_id: str) -> None:
        """The agent starts the attempt, which may have effects from now on."""
        attempt.status, attempt.agent_id, attempt.started_at = Status.RUNNING, agent_id, tx.now
        attempt.reason = ""
        previous = job.move(step, Status.RUNNING)
        step.started_at = step.started_at or tx.now
        store.save(tx.conn, attempt)
        store.save_part(tx.conn, run.id, step)
        first, job.begun = not job.begun, True
        # A job that was opened again has its limits again; in a restarted one they go on.
        unlimited = job.spec.timeout and not job.deadline and not job.stopping
        limited = first or job.queue_deadline or unlimited
        if limited:
            job.queue_deadline, job.deadline = 0, after(tx, job.spec.timeout)
            job.held_at = tx.now if run.paused_at else job.held_at
        if limited or job.agent_id != agent_id or job.fresh:
            job.agent_id, job.fresh = agent_id, False
            store.save_part(tx.conn, run.id, job)
        self._records.append(
            tx,
            run,
            entries.STEP_STARTED,
            job,
            step,
            attempt,
            previous=previous,
            agent_id=agent_id,
            **around(job),
        )

    def end_attempt(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        status: Status,
        *,
        exit_code: int = 0,
        error: str = "",
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        """End the step's current attempt; the step is tried again or ends as well."""
        if step.stopping and status is not Status.SUCCEEDED:
            status, error = Status(step.stopping), error or step.reason
        if status is Status.FAILED:
            doubt(tx, run.project, run.checkout, error)
        if step.stopping == Status.SUCCEEDED:  # a background step at the end of its job: ignore its error
            error = ""
        again = None
        if status.bad and not step.stopping:
            step.failures += 1
            again = after_failure(run, job, step, tx.now)
        if again is not None:
            job.move(step, Status.PENDING)  # before the entry with the job's counts is written
        retry_at = tx.now + again.delay if again else 0
        attempt = self.close_attempt(
            tx,
            run,
            job,
            step,
            status,
            exit_code=exit_code,
            error=error,
            retry_at=retry_at,
            metrics=metrics,
        )
        if again is None:
            reason = JOB_ENDED if step.stopping == Status.SUCCEEDED else error
            self.finish(tx, run, job, step, status, attempt=attempt, reason=reason)
        else:
            step.current, step.not_before = "", max(retry_at, 1)
            step.reason = f"tried again after: {error}" if error else "tried again"
            store.save_part(tx.conn, run.id, step)

    def close_attempt(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        status: Status,
        *,
        exit_code: int = 0,
        error: str = "",
        retry_at: int = 0,
        metrics: Mapping[str, str] | None = None,
    ) -> Attempt:
        """End the step's current attempt; the caller decides what happens to the step."""
        found = store.attempt(tx.conn, step.current)
        assert found is not None, "a step's current attempt is always stored"
        attempt = found[1]
        previous = attempt.status
        attempt.status, attempt.exit_code, attempt.error = status, exit_code, error
        attempt.reason, attempt.finished_at = JOB_ENDED if step.stopping == Status.SUCCEEDED else "", tx.now
        store.save(tx.conn, attempt)
        if job.step_spec(step).gate:
            self._gate_closed(tx, run, job, step, attempt)
        self._attempt_completed(tx, run, job, step, attempt, previous, retry_at, metrics)
        return attempt

    def _gate_closed(self, tx: Tx, run: Run, job: Job, step: Step, attempt: Attempt) -> None:
        if not run.paused_at:
            release(tx, job)
        step.deadline = 0
        store.save_part(tx.conn, run.id, job)
        self.gates.closed(tx, run, attempt)

    def _attempt_completed(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        attempt: Attempt,
        previous: Status,
        retry_at: int = 0,
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        self._records.append(
            tx,
            run,
            entries.ATTEMPT_COMPLETED,
            job,
            step,
            attempt,
            status=attempt.status,
            previous=previous,
            exit_code=attempt.exit_code,
            error=attempt.error,
            metrics=dict(metrics or {}),
            agent_id=attempt.agent_id,
            duration=span(attempt.started_at, tx.now),
            final=retry_at == 0,
            retry_at=retry_at,
            **around(job),
        )

    def finish(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        status: Status,
        *,
        reason: str,
        attempt: Attempt | None = None,
        alone: bool = False,
    ) -> None:
        """End the step, with or without an attempt. ``alone``: a user ends it, whatever the job does."""
        previous = job.move(step, status)
        step.reason, step.finished_at, step.current = reason, tx.now, ""
        store.save_part(tx.conn, run.id, step)
        never_begun = unstarted(run, job, step) if attempt is None else None
        if never_begun is not None:
            self._attempt_completed(tx, run, job, step, never_begun, Status.PENDING)
        self._records.append(
            tx,
            run,
            entries.STEP_COMPLETED,
            job,
            step,
            attempt or never_begun,
            status=status,
            previous=previous,
            exit_code=attempt.exit_code if attempt else 0,
            error=attempt.error if attempt else "",
            reason=reason,
            outputs=step.outputs,
            duration=span(step.started_at, tx.now),
            **({"alone": True} if alone else {}),
            **around(job),
        )


def after(tx: Tx, timeout: float) -> int:
    """The time (ms) at which a timeout (seconds) that starts now ends; 0 without one."""
    return tx.now + round(timeout * 1000) if timeout else 0


def release(tx: Tx, job: Job) -> None:
    """Resume the time limits of a job, which were suspended at ``held_at``."""
    if job.held_at:
        stood = tx.now - job.held_at
        job.deadline += stood if job.deadline else 0
        job.queue_deadline += stood if job.queue_deadline else 0
        job.cleanup_until += stood if job.stopping == Status.TIMED_OUT else 0
        job.held_at = 0
