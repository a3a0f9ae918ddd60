"""Every change of a run's state, each with its journal entry, in the caller's transaction.

Nothing else writes the status of a run, job, step or attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from uuid_utils import uuid7

from pilothouse.engine import store
from pilothouse.engine.checkouts import doubt
from pilothouse.engine.decisions import (
    Decision,
    FinishJob,
    FinishRun,
    FinishStep,
    GiveUpWaiting,
    KeepJob,
    QueueStep,
    RestartJob,
    StartJob,
    StartRun,
    StopAttempt,
    StopJob,
)
from pilothouse.engine.graph_json import selector_to_json
from pilothouse.engine.model import JOB_ENDED, LOST, Attempt, Job, Run, Status, Step
from pilothouse.engine.plan import after_failure, after_loss, decide, decide_job
from pilothouse.engine.selectors import combined
from pilothouse.engine.standing import around, job_standing, run_keys, run_standing, span
from pilothouse.fleet.model import LeaseState
from pilothouse.fleet.service import Fleet
from pilothouse.journal import Journal
from pilothouse.storage import Tx
from pilothouse.wire import entries


class Transitions:
    """Applies what the planner decides, and what agents report.

    ``cleanup_grace``: seconds that steps which clean up have after a cancel or a job's timeout, waiting included.
    """

    def __init__(self, journal: Journal, fleet: Fleet, cleanup_grace: float = 300) -> None:
        self._journal = journal
        self._fleet = fleet
        self._grace = int(cleanup_grace * 1000)

    def cancel(self, tx: Tx, run: Run, reason: str, *, force: bool, by: str, by_id: str) -> None:
        """Note that the run is to end, at once where ``force``; :meth:`settle` does the rest."""
        run.cancel_reason = run.cancel_reason or reason
        if not run.cleanup_until and self._grace:
            run.cleanup_until = tx.now + self._grace
        run.forced = force
        store.save(tx.conn, run)
        self.tell(
            tx,
            run,
            entries.RUN_CANCELLING,
            reason=run.cancel_reason,
            force=force,
            until=0 if force else run.cleanup_until,
            by=by,
            by_id=by_id,
            **run_standing(run),
        )

    # -- what the planner decides -----------------------------------------------------------------------

    def settle(self, tx: Tx, run: Run, job: Job | None = None) -> None:
        """Apply decisions until the run has to wait for somebody or for a time.

        ``job``: where it is known that only this job has changed, the others are looked at when it ends.
        """
        while job is not None and not job.status.over and not run.cancelling:
            steps = decide_job(run, job, tx.now)
            if not steps:
                return
            for decision in steps:
                self._apply(tx, run, decision)
        while decisions := decide(run, tx.now):
            for decision in decisions:
                self._apply(tx, run, decision)

    def _apply(self, tx: Tx, run: Run, decision: Decision) -> None:
        match decision:
            case StartRun():
                previous, run.status, run.started_at = run.status, Status.RUNNING, tx.now
                store.save(tx.conn, run)
                self.tell(tx, run, entries.RUN_STARTED, previous=previous, **run_standing(run))
            case FinishRun(status, reason):
                self._finish_run(tx, run, status, reason)
            case StartJob(job):
                self._start_job(tx, run, job)
            case FinishJob(job, status, reason):
                self._finish_job(tx, run, job, status, reason)
            case GiveUpWaiting(job, reason):
                self._give_up_waiting(tx, run, job, reason)
            case KeepJob(job):
                job.cleanup_until = run.cleanup_until
                store.save(tx.conn, job)
            case StopJob(job, status):
                self._stop_job(tx, run, job, status)
            case RestartJob(job, reason, delay):
                self._restart_job(tx, run, job, reason, delay)
            case QueueStep(job, step):
                self._queue_step(tx, run, job, step)
            case FinishStep(job, step, status, reason):
                self._finish_step(tx, run, job, step, status, reason=reason)
            case StopAttempt(job, step, status, reason):
                self._stop_attempt(tx, run, job, step, status, reason)

    def _finish_run(self, tx: Tx, run: Run, status: Status, reason: str) -> None:
        previous, run.status, run.reason, run.finished_at = run.status, status, reason, tx.now
        store.save(tx.conn, run)
        self.tell(
            tx,
            run,
            entries.RUN_COMPLETED,
            status=status,
            previous=previous,
            reason=reason,
            duration=span(run.started_at, tx.now),
            outputs=run.outputs(),
            **run_standing(run),
        )

    def _start_job(self, tx: Tx, run: Run, job: Job) -> None:
        previous, job.status, job.started_at = job.status, Status.RUNNING, tx.now
        job.queue_deadline = _after(tx, run.job_spec(job).queue_timeout)
        job.cleanup_until = run.cleanup_until if run.cancelling else 0
        store.save(tx.conn, job)
        self.tell(
            tx, run, entries.JOB_STARTED, job, previous=previous, round=job.round, **job_standing(run, job)
        )

    def _finish_job(self, tx: Tx, run: Run, job: Job, status: Status, reason: str) -> None:
        left = Status.CANCELLED if status is Status.CANCELLED else Status.SKIPPED
        for step in job.steps:
            if not step.status.over:
                self._finish_step(tx, run, job, step, left, reason=reason)
        previous, job.status, job.reason, job.finished_at = job.status, status, reason, tx.now
        store.save(tx.conn, job)
        self.tell(
            tx,
            run,
            entries.JOB_COMPLETED,
            job,
            status=status,
            previous=previous,
            reason=reason,
            duration=span(job.started_at, tx.now),
            **job_standing(run, job),
        )

    def _stop_job(self, tx: Tx, run: Run, job: Job, status: Status) -> None:
        job.stopping = status.value
        job.cleanup_until = run.cleanup_until if status is Status.CANCELLED else tx.now + self._grace
        job.deadline = job.queue_deadline = job.not_before = 0
        store.save(tx.conn, job)

    def _give_up_waiting(self, tx: Tx, run: Run, job: Job, reason: str) -> None:
        for step in [step for step in job.steps if step.current]:
            found = store.attempt(tx.conn, step.current)
            if found is not None and found[1].reason:
                reason = f"{reason}: {found[1].reason}"
            self._stop_attempt(tx, run, job, step, Status.TIMED_OUT, reason)
        self._finish_job(tx, run, job, Status.TIMED_OUT, reason)

    def _restart_job(self, tx: Tx, run: Run, job: Job, reason: str, delay: int) -> None:
        for step in job.steps:
            if step.current:
                self._abandon_attempt(tx, run, job, step)
        job.round += 1
        job.workspace, job.agent_id, job.fresh = f"{job.id}-{job.round}", "", True
        job.not_before = tx.now + delay if delay else 0
        for step in job.steps:
            step.status, step.reason, step.outputs, step.failures = Status.PENDING, "", {}, 0
            step.current, step.stopping, step.not_before = "", "", 0
            step.started_at = step.finished_at = 0
            store.save(tx.conn, step)
        store.save(tx.conn, job)
        self.tell(
            tx,
            run,
            entries.JOB_RESTARTED,
            job,
            round=job.round,
            reason=reason,
            retry_at=job.not_before,
            **job_standing(run, job),
        )

    def _queue_step(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        step.attempts += 1
        # The agent that begins a job holds its workspace: it must suit the steps still to come as well.
        coming = run.job_spec(job).steps[step.index : step.index + 1 if job.agent_id else None]
        wanted = combined(one.selector for one in coming)
        attempt = Attempt(
            id=str(uuid7()),
            step_id=step.id,
            number=step.attempts,
            status=Status.QUEUED,
            selector=orjson.dumps(selector_to_json(wanted)).decode() if wanted else "",
            queued_at=tx.now,
        )
        previous, step.status, step.current, step.not_before = step.status, Status.QUEUED, attempt.id, 0
        step.outputs = {}  # those of an attempt before are of no use to anybody from here on
        store.insert_attempt(tx.conn, run.id, attempt)
        store.save(tx.conn, step)
        if job.not_before:
            job.not_before = 0
            store.save(tx.conn, job)
        self.tell(
            tx, run, entries.STEP_QUEUED, job, step, attempt, previous=previous, reason="", **around(job)
        )
        for wake in self._fleet.wakers:
            tx.after_commit(wake)

    def _stop_attempt(self, tx: Tx, run: Run, job: Job, step: Step, status: Status, reason: str) -> None:
        step.stopping, step.reason = status.value, reason
        store.save(tx.conn, step)
        if self._fleet.withdraw(tx, step.current, reason) is not LeaseState.STARTED:
            self.end_attempt(tx, run, job, step, status, error=reason)

    def _abandon_attempt(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        """The job begins again while another of its steps is with an agent: what that one reports counts no more."""
        why = "the job begins again"
        self._fleet.withdraw(tx, step.current, why)
        step.status = Status.PENDING
        self._close_attempt(tx, run, job, step, Status.CANCELLED, 0, why, tx.now)

    # -- what agents report -----------------------------------------------------------------------------

    def start_attempt(self, tx: Tx, run: Run, job: Job, step: Step, attempt: Attempt, agent_id: str) -> None:
        """The agent begins: from here on the attempt may have had effects."""
        attempt.status, attempt.agent_id, attempt.started_at = Status.RUNNING, agent_id, tx.now
        attempt.reason = ""
        previous, step.status = step.status, Status.RUNNING
        first = not job.begun
        step.started_at = step.started_at or tx.now
        store.save(tx.conn, attempt)
        store.save(tx.conn, step)
        if first:
            job.queue_deadline, job.deadline = 0, _after(tx, run.job_spec(job).timeout)
        if first or job.agent_id != agent_id or job.fresh:
            job.agent_id, job.fresh = agent_id, False
            store.save(tx.conn, job)
        self.tell(
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
        """The step's current attempt is over; the step is tried again or ends with it."""
        if step.stopping and status is not Status.SUCCEEDED:
            status, error = Status(step.stopping), error or step.reason
        if status is Status.FAILED:
            doubt(tx, run.project, run.checkout, error)
        if step.stopping == Status.SUCCEEDED:  # a background step, whatever its agent calls the way it ended
            error = ""
        again = None
        if status.bad and not step.stopping:
            step.failures += 1
            again = after_failure(run, job, step, tx.now)
        if again is not None:
            step.status = Status.PENDING  # before it is told how the job stands
        retry_at = tx.now + again.delay if again else 0
        attempt = self._close_attempt(tx, run, job, step, status, exit_code, error, retry_at, metrics)
        if again is None:
            reason = JOB_ENDED if step.stopping == Status.SUCCEEDED else error
            self._finish_step(tx, run, job, step, status, attempt=attempt, reason=reason)
        else:
            step.current, step.not_before = "", max(retry_at, 1)
            step.reason = f"tried again after: {error}" if error else "tried again"
            store.save(tx.conn, step)

    def lose_attempt(
        self, tx: Tx, run: Run, job: Job, step: Step, reason: str, *, started: bool, gone: bool
    ) -> None:
        """The agent will not finish the current attempt. ``gone``: nor can its workspace be counted on."""
        if step.stopping:
            self.end_attempt(tx, run, job, step, Status(step.stopping), error=step.reason)
            return
        again = after_loss(run, job, step, started, tx.now)
        if started:
            step.lost += 1
        else:
            step.unstarted += 1
        if again is not None:
            step.status = Status.PENDING
        error = LOST + reason
        attempt = self._close_attempt(tx, run, job, step, Status.FAILED, 0, error, tx.now if again else 0)
        if again is not None and again.job:
            job.lost += 1
            step.current = ""
            self._restart_job(tx, run, job, error, 0)
        elif again is not None:
            if started and gone and (job.agent_id or not job.fresh):
                job.agent_id, job.fresh, job.workspace = "", True, f"{job.id}-{job.round}.{step.attempts}"
                store.save(tx.conn, job)
            step.current, step.not_before, step.reason = "", 1, error
            store.save(tx.conn, step)
        else:
            self._finish_step(tx, run, job, step, Status.FAILED, attempt=attempt, reason=error)

    def _close_attempt(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        status: Status,
        exit_code: int,
        error: str,
        retry_at: int,
        metrics: Mapping[str, str] | None = None,
    ) -> Attempt:
        found = store.attempt(tx.conn, step.current)
        assert found is not None, "a step's current attempt is always stored"
        attempt = found[1]
        previous = attempt.status
        attempt.status, attempt.exit_code, attempt.error = status, exit_code, error
        attempt.reason, attempt.finished_at = JOB_ENDED if step.stopping == Status.SUCCEEDED else "", tx.now
        store.save(tx.conn, attempt)
        self.tell(
            tx,
            run,
            entries.ATTEMPT_COMPLETED,
            job,
            step,
            attempt,
            status=status,
            previous=previous,
            exit_code=exit_code,
            error=error,
            metrics=dict(metrics or {}),
            agent_id=attempt.agent_id,
            duration=span(attempt.started_at, tx.now),
            final=retry_at == 0,
            retry_at=retry_at,
            **around(job),
        )
        return attempt

    def _finish_step(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        status: Status,
        *,
        reason: str,
        attempt: Attempt | None = None,
    ) -> None:
        previous, step.status, step.reason, step.finished_at = step.status, status, reason, tx.now
        step.current = ""
        store.save(tx.conn, step)
        self.tell(
            tx,
            run,
            entries.STEP_COMPLETED,
            job,
            step,
            attempt,
            status=status,
            previous=previous,
            exit_code=attempt.exit_code if attempt else 0,
            error=attempt.error if attempt else "",
            reason=reason,
            outputs=step.outputs,
            duration=span(step.started_at, tx.now),
            **around(job),
        )

    # -- the journal ------------------------------------------------------------------------------------

    def tell(
        self,
        tx: Tx,
        run: Run,
        type: str,
        job: Job | None = None,
        step: Step | None = None,
        attempt: Attempt | None = None,
        **more: Any,
    ) -> None:
        """Write an entry to the run's stream with the keys that every projection needs (wire/entries.py)."""
        body = run_keys(run, job, step)
        if attempt is not None:
            body["step_run_id"] = attempt.id
            body["attempt"] = attempt.number
        body.update(more)
        subject = attempt.id if attempt else step.id if step else job.id if job else ""
        scope = entries.project_scope(run.project)
        self._journal.append(tx, entries.run_stream(run.id), type, scope, body, subject=subject)


def _after(tx: Tx, timeout: float) -> int:
    """When (ms) a timeout of so many seconds that begins now is over; 0 without one."""
    return tx.now + round(timeout * 1000) if timeout else 0
