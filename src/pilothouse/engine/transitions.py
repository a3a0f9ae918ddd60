"""All changes of the state of runs and jobs, with their journal entries, in the caller's transaction.

Those of steps and attempts are in ``step_transitions``. No other code changes a status.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

import orjson

from pilothouse.engine import graph_store, run_counts, store
from pilothouse.engine.cleanup import cancel_alone
from pilothouse.engine.decisions import (
    CheckGate,
    Decision,
    FinishJob,
    FinishRun,
    FinishStep,
    GiveUpWaiting,
    KeepJob,
    OpenGate,
    QueueStep,
    RestartJob,
    StartJob,
    StartRun,
    StopAttempt,
    StopJob,
)
from pilothouse.engine.errors import GroupInvalid
from pilothouse.engine.graph import Graph
from pilothouse.engine.graph import Step as StepSpec
from pilothouse.engine.graph_json import addition_to_json, encoded, replacement_to_json
from pilothouse.engine.growth import Addition, Replacement, replaced
from pilothouse.engine.model import LOST, SETTLE_STEPS, Job, Run, Status, Step, restart_step
from pilothouse.engine.plan import REMOVED, after_loss, decide_job, decide_run
from pilothouse.engine.records import RunRecords
from pilothouse.engine.reruns import depending, new_job, new_steps
from pilothouse.engine.standing import job_standing, outline, run_standing, span
from pilothouse.engine.step_transitions import StepTransitions, after, release
from pilothouse.engine.unstarted import unstarted
from pilothouse.fleet.service import Fleet
from pilothouse.journal import Journal
from pilothouse.storage import Tx
from pilothouse.wire import entries

MAX_CHANGES = 50
"""So many decisions are applied in one transaction; what else can be decided follows in the next ones.

All runs that one transaction moves on share them: a run starts others, which start others; a cancel ends them all.
"""

GATE_CHANGES = 4
"""Opening or checking a gate costs as much as so many other decisions: its arguments are evaluated, and the attempt,
the gate, the job and the step are stored."""

MAX_SECONDS = 0.05
"""CPU time after which a transaction makes no further decision: conditions and arguments of gates may take long."""


class GroupHandler(Protocol):
    """Concurrency groups (``concurrency.py``)."""

    def enter_job(self, tx: Tx, run: Run, job: Job) -> bool:
        """Whether the job may start; otherwise it waits from now on."""

    def leave_run(self, tx: Tx, run: Run) -> None:
        """The run has ended."""

    def leave_job(self, tx: Tx, run: Run, job: Job) -> None:
        """The job has ended."""


class Transitions:
    """Applies decisions of the planner and reports of agents.

    ``cleanup_grace``: seconds for cleanup after a cancel or a job's timeout, including waiting. ``steps``: the
    transitions of steps and attempts.
    """

    def __init__(self, journal: Journal, fleet: Fleet, cleanup_grace: float = 300) -> None:
        self.records = RunRecords(journal)
        self.steps = StepTransitions(self.records, fleet)
        self._fleet = fleet
        self._grace = int(cleanup_grace * 1000)
        self._groups: GroupHandler | None = None
        self._on_unsettled: Callable[[], None] = lambda: None
        self._budget: tuple[Tx | None, int, float] = (None, 0, 0)

    def handle_groups(self, groups: GroupHandler) -> None:
        """Ask ``groups`` where a run or job has a concurrency group."""
        self._groups = groups

    def on_unsettled(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` on the event loop when a run has more decisions than are allowed in one transaction."""
        self._on_unsettled = wake

    def cancel(self, tx: Tx, run: Run, reason: str, *, force: bool, by: str, by_id: str) -> None:
        """Mark the run as being cancelled; ``force``: without cleanup. :meth:`settle` must follow."""
        if run.paused_at:
            self.resume(tx, run, by=by, by_id=by_id)
        force = force or bool(run.waits_for)  # nothing has started that could be cleaned up
        run.cancel_reason = run.cancel_reason or reason
        if not run.cleanup_until and self._grace:
            run.cleanup_until = tx.now + self._grace
        run.forced = force
        store.save(tx.conn, run)
        self.records.append(
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

    def cancel_job(self, tx: Tx, run: Run, job: Job, reason: str) -> None:
        """Cancel one job; its cleanup steps run, if an agent has started it. :meth:`settle` must follow."""
        job.stopping, job.reason = Status.CANCELLED.value, reason
        job.cleanup_until = tx.now + (self._grace if job.begun else 0)
        job.deadline = job.queue_deadline = job.not_before = 0
        store.save_part(tx.conn, run.id, job)
        for stop in cancel_alone(run, job, reason):
            self.steps.stop(tx, run, job, stop.step, stop.status, stop.reason)

    def pause(self, tx: Tx, run: Run, *, by: str, by_id: str) -> None:
        """Pause the run: running steps continue, no others start, time limits of jobs are suspended."""
        run.paused_at, run.paused_by = tx.now, by
        store.save(tx.conn, run)
        for job in run.jobs:
            limited = job.deadline or job.queue_deadline or job.stopping
            if limited and not job.status.over and not job.held_at:
                job.held_at = tx.now
                store.save_part(tx.conn, run.id, job)
        self.records.append(tx, run, entries.RUN_PAUSED, by=by, by_id=by_id, **run_standing(run))

    def resume(self, tx: Tx, run: Run, *, by: str, by_id: str) -> None:
        """Resume a paused run. :meth:`settle` must follow."""
        run.paused_at, run.paused_by = 0, ""
        store.save(tx.conn, run)
        for job in [job for job in run.jobs if job.held_at]:
            if not any(step.current and job.step_spec(step).gate for step in job.awaited):
                release(tx, job)
                store.save_part(tx.conn, run.id, job)
        for wake in self._fleet.wakers:
            tx.after_commit(wake)  # what is queued may be handed out again
        self.records.append(tx, run, entries.RUN_RESUMED, by=by, by_id=by_id, **run_standing(run))

    def extend(self, tx: Tx, run: Run, graph: Graph, addition: Addition, *, by: str, by_id: str) -> None:
        """Extend the run to ``graph``, which is its graph with the addition. :meth:`settle` must follow."""
        self._store_part(tx, run, addition_to_json(addition))
        run.graph = graph
        changed = [run.job(name) for name in addition.steps]
        for job in changed:
            job.spec = graph.jobs[job.index]
            job.steps += new_steps(run.id, job)
        added = [new_job(run.id, at, graph.jobs[at]) for at in range(len(run.jobs), len(graph.jobs))]
        run.jobs += added
        run.recount()
        store.save(tx.conn, run)
        self.records.append(
            tx,
            run,
            entries.RUN_EXTENDED,
            jobs=[*outline(run, added), *outline(run, changed)],
            by=by,
            by_id=by_id,
            **run_standing(run),
        )

    def _store_part(self, tx: Tx, run: Run, change: dict[str, Any]) -> None:
        part = graph_store.count_parts(tx.conn, run.id)
        if not part:  # the original graph of a run of the first release is not stored yet
            graph_store.insert_graph(tx.conn, run.id, 0, encoded(run.graph))
        graph_store.insert_graph(tx.conn, run.id, max(part, 1), orjson.dumps(change).decode())

    def replace_step(
        self,
        tx: Tx,
        run: Run,
        job: Job,
        step: Step,
        spec: StepSpec,
        *,
        fields: list[str],
        by: str,
        by_id: str,
    ) -> None:
        """Change the definition of a step that was not handed out. :meth:`settle` must follow.

        ``fields``: which were changed; a step that is removed ends.
        """
        change = Replacement(job.index, step.index, spec)
        self._store_part(tx, run, replacement_to_json(change))
        run.graph = replaced(run.graph, change)
        job.spec = run.graph.jobs[job.index]
        job.recount()
        self.records.append(
            tx, run, entries.STEP_CHANGED, job, step, fields=fields, removed=spec.removed, by=by, by_id=by_id
        )
        if not spec.removed:
            return
        if step.current:
            self.steps.stop(tx, run, job, step, Status.SKIPPED, REMOVED)
        else:
            self.steps.finish(tx, run, job, step, Status.SKIPPED, reason=REMOVED, alone=True)

    def reopen(self, tx: Tx, run: Run, job: Job, step: Step, *, by: str, by_id: str) -> None:
        """Begin again at a step of a job that is over, and all jobs that depend on it. :meth:`settle` must follow.

        The job goes on in its workspace, if an agent has one.
        """
        previous = run.status
        run_counts.reopened(tx.conn, run)
        goes_on = bool(step.index and job.agent_id)
        dependents = depending(run, {job.name})
        again = [one for one in run.jobs if one.name in dependents and one.status.over and one is not job]
        before = [(one, one.status) for one in (job, *again)]
        self._restart_steps(tx, run, job, first=step.index if goes_on else 0)
        _reset(job, fresh=not goes_on)
        for other in again:
            self._restart_steps(tx, run, other, first=0)
            _reset(other, fresh=True)
        run.status, run.reason, run.finished_at = Status.RUNNING, "", 0
        run.cancel_reason, run.cleanup_until, run.forced = "", 0, False
        run.recount()
        store.save(tx.conn, run)
        for one in (job, *again):
            store.save_part(tx.conn, run.id, one)
        self.records.append(
            tx,
            run,
            entries.RUN_REOPENED,
            job,
            step,
            previous=previous,
            from_step=step.index if goes_on else 0,
            paused=bool(run.paused_at),
            jobs=[one.name for one in (job, *again)],
            by=by,
            by_id=by_id,
            **run_standing(run),
        )
        for one, ended in before:
            reason = "the run was opened again"
            self.records.append(
                tx, run, entries.JOB_WAITING, one, previous=ended, reason=reason, **job_standing(run, one)
            )

    def _restart_steps(self, tx: Tx, run: Run, job: Job, first: int) -> None:
        """Reset the steps from this one on, and those in the background, which ended with their job."""
        again = [step for step in job.steps if step.index >= first or job.step_spec(step).background]
        ended = [one for step in again if step.status.over and (one := unstarted(run, job, step))]
        store.insert_attempts(tx.conn, run.id, ended)
        store.restart_steps(tx.conn, job.id, [step.index for step in again] if first else None)
        for step in again:
            restart_step(step)

    # -- what the planner decides -----------------------------------------------------------------------

    def settle(self, tx: Tx, run: Run, job: Job | None = None) -> None:
        """Apply decisions until the run has to wait, or the limit per transaction is reached.

        ``job``: the only job that has changed, if known; others are planned when it ends.
        """
        if not run.unsettled:
            run.condition_steps = SETTLE_STEPS
        for one in run.jobs if job is None else (job,):
            if not one.status.over:
                run.agenda.setdefault(one.index, one)
        while self._left(tx) > 0:
            decisions = decide_run(run, tx.now)
            if not decisions and run.agenda:
                _, one = run.agenda.popitem(last=False)
                decisions = decide_job(run, one, tx.now)
                if decisions:
                    run.agenda[one.index] = one  # again, after the others
            elif not decisions:
                break
            for decision in decisions:
                if self._left(tx) <= 0:
                    break
                self.spend(tx, self._apply(tx, run, decision))
        self._note_unsettled(tx, run)

    def spend(self, tx: Tx, changes: int) -> None:
        """Count changes towards those that may be made in one transaction."""
        _, left, began = self._budget_of(tx)
        self._budget = (tx, left - changes, began)

    def _budget_of(self, tx: Tx) -> tuple[Tx | None, int, float]:
        if self._budget[0] is not tx:
            self._budget = (tx, MAX_CHANGES, time.thread_time())
        return self._budget

    def _left(self, tx: Tx) -> int:
        """How many changes this transaction may still make; at first always some."""
        _, left, began = self._budget_of(tx)
        return left if left == MAX_CHANGES or time.thread_time() - began < MAX_SECONDS else min(left, 0)

    def _note_unsettled(self, tx: Tx, run: Run) -> None:
        unsettled = bool(run.agenda) and not run.status.over
        if unsettled != run.unsettled:
            run.unsettled = unsettled
            store.save(tx.conn, run)
        if unsettled:
            tx.after_commit(self._on_unsettled)

    def _apply(self, tx: Tx, run: Run, decision: Decision) -> int:
        """Apply a decision; returns the number of changes."""
        match decision:
            case StartRun():
                self._start_run(tx, run)
            case FinishRun(status, reason):
                self._finish_run(tx, run, status, reason)
            case StartJob(job):
                return self._start_job(tx, run, job)
            case FinishJob(job, status, reason):
                return self._finish_job(tx, run, job, status, reason)
            case GiveUpWaiting(job, reason):
                return self._give_up_waiting(tx, run, job, reason)
            case KeepJob(job):
                job.cleanup_until = run.cleanup_until
                store.save_part(tx.conn, run.id, job)
            case StopJob(job, status):
                self._stop_job(tx, run, job, status)
            case RestartJob(job, reason, delay):
                self._restart_job(tx, run, job, reason, delay)
            case QueueStep(job, step):
                self.steps.queue(tx, run, job, step)
            case OpenGate(job, step):
                self.steps.open_gate(tx, run, job, step)
                return GATE_CHANGES
            case CheckGate(job, step):
                self.steps.gates.due(tx, run, job, step)
                return GATE_CHANGES
            case FinishStep(job, step, status, reason):
                self.steps.finish(tx, run, job, step, status, reason=reason)
            case StopAttempt(job, step, status, reason):
                self.steps.stop(tx, run, job, step, status, reason)
        return 1

    def _start_run(self, tx: Tx, run: Run) -> None:
        previous, run.status, run.started_at = run.status, Status.RUNNING, tx.now
        store.save(tx.conn, run)
        self.records.append(tx, run, entries.RUN_STARTED, previous=previous, **run_standing(run))

    def _finish_run(self, tx: Tx, run: Run, status: Status, reason: str) -> None:
        previous, run.status, run.reason, run.finished_at = run.status, status, reason, tx.now
        run.agenda.clear()
        store.save(tx.conn, run)
        run_counts.ended(tx.conn, run)
        self.records.append(
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
        if run.parent_gate:
            self.steps.gates.child_ended(tx, run)
        if run.graph.concurrency:
            assert self._groups is not None, "the module sets it"
            self._groups.leave_run(tx, run)

    def _start_job(self, tx: Tx, run: Run, job: Job) -> int:
        """Start a job, unless it has to wait in its concurrency group; returns the number of changes."""
        if job.spec.concurrency:
            assert self._groups is not None, "the module sets it"
            try:
                if not self._groups.enter_job(tx, run, job):
                    return GATE_CHANGES
            except GroupInvalid as error:
                return self._finish_job(tx, run, job, Status.FAILED, error.message)
        previous, job.started_at = run.move(job, Status.RUNNING), tx.now
        job.queue_deadline = after(tx, job.spec.queue_timeout)
        job.cleanup_until = run.cleanup_until  # 0 unless it is being cancelled
        store.save_part(tx.conn, run.id, job)
        self.records.append(
            tx, run, entries.JOB_STARTED, job, previous=previous, round=job.round, **job_standing(run, job)
        )
        return 1

    def _finish_job(self, tx: Tx, run: Run, job: Job, status: Status, reason: str) -> int:
        """End a limited number of the job's steps per transaction, and the job after the last one."""
        left = Status.CANCELLED if status is Status.CANCELLED else Status.SKIPPED
        ending = list(islice(job.unfinished, MAX_CHANGES))
        for step in ending:
            self.steps.finish(tx, run, job, step, left, reason=reason)
        if len(ending) == MAX_CHANGES:
            return MAX_CHANGES
        previous = run.move(job, status)
        job.reason, job.finished_at = reason, tx.now
        store.save_part(tx.conn, run.id, job)
        self.records.append(
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
        if job.spec.concurrency:
            assert self._groups is not None, "the module sets it"
            self._groups.leave_job(tx, run, job)
        return 1 + len(ending)

    def _stop_job(self, tx: Tx, run: Run, job: Job, status: Status) -> None:
        job.stopping = status.value
        job.cleanup_until = run.cleanup_until if status is Status.CANCELLED else tx.now + self._grace
        job.deadline = job.queue_deadline = job.not_before = 0
        store.save_part(tx.conn, run.id, job)

    def _give_up_waiting(self, tx: Tx, run: Run, job: Job, reason: str) -> int:
        for step in [step for step in job.unfinished if step.current]:
            found = store.attempt(tx.conn, step.current)
            if found is not None and found[1].reason:
                reason = f"{reason}: {found[1].reason}"
            self.steps.stop(tx, run, job, step, Status.TIMED_OUT, reason)
        return self._finish_job(tx, run, job, Status.TIMED_OUT, reason)

    def _restart_job(self, tx: Tx, run: Run, job: Job, reason: str, delay: int) -> None:
        for step in [step for step in job.unfinished if step.current]:
            self.steps.abandon(tx, run, job, step)
        approved = job.spec.guard and job.steps[0].status is Status.SUCCEEDED
        self._restart_steps(tx, run, job, first=1 if approved else 0)
        job.round += 1
        job.workspace, job.agent_id, job.fresh = f"{job.id}-{job.round}", "", True
        job.not_before = tx.now + delay if delay else 0
        job.recount()
        store.save_part(tx.conn, run.id, job)
        self.records.append(
            tx,
            run,
            entries.JOB_RESTARTED,
            job,
            round=job.round,
            reason=reason,
            retry_at=job.not_before,
            from_step=1 if approved else 0,
            **job_standing(run, job),
        )

    def lose_attempt(
        self, tx: Tx, run: Run, job: Job, step: Step, reason: str, *, started: bool, gone: bool
    ) -> None:
        """The agent will not finish the current attempt. ``gone``: its workspace may be lost as well."""
        if step.stopping:
            self.steps.end_attempt(tx, run, job, step, Status(step.stopping), error=step.reason)
            return
        again = after_loss(run, job, step, started, tx.now)
        if started:
            step.lost += 1
        else:
            step.unstarted += 1
        if again is not None:
            job.move(step, Status.PENDING)
        error = LOST + reason
        attempt = self.steps.close_attempt(
            tx, run, job, step, Status.FAILED, error=error, retry_at=tx.now if again else 0
        )
        if again is not None and again.job:
            job.lost += 1
            step.current = ""
            store.save_part(tx.conn, run.id, step)
            self._restart_job(tx, run, job, error, 0)
        elif again is not None:
            if started and gone and (job.agent_id or not job.fresh):
                job.agent_id, job.fresh, job.workspace = "", True, f"{job.id}-{job.round}.{step.attempts}"
                store.save_part(tx.conn, run.id, job)
            step.current, step.not_before, step.reason = "", 1, error
            store.save_part(tx.conn, run.id, step)
        else:
            self.steps.finish(tx, run, job, step, Status.FAILED, attempt=attempt, reason=error)


def _reset(job: Job, *, fresh: bool) -> None:
    """A job that is over waits again; ``fresh``: in a new workspace, otherwise it goes on in the one it has."""
    job.status, job.reason, job.stopping, job.finished_at = Status.PENDING, "", "", 0
    job.not_before = job.deadline = job.queue_deadline = job.held_at = job.cleanup_until = 0
    if fresh:
        job.round += 1
        job.workspace, job.agent_id, job.fresh = f"{job.id}-{job.round}", "", True
