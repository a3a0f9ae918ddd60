"""Cancels single step runs and jobs, and applies reports on whole jobs: by users, and by agents on their work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.engine import store
from pilothouse.engine.errors import (
    JobHasWork,
    JobNotFound,
    JobOver,
    RunOver,
    StepRunNotFound,
    StepRunOver,
)
from pilothouse.engine.lookup import find_jobs, find_step_run
from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from pilothouse.engine.runs import RunCache, require_run
from pilothouse.engine.step_runs import deleted
from pilothouse.engine.transitions import Transitions
from pilothouse.engine.unstarted import find_unstarted
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.errors import NotItsWork
from pilothouse.fleet.model import TaskReport, TaskStatus, Verdict
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx

RIGHT = "run.control"
_OF_JOB = {
    TaskStatus.SUCCEEDED: Status.SUCCEEDED,
    TaskStatus.FAILED: Status.FAILED,
    TaskStatus.CANCELLED: Status.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A job, or one of its step runs."""

    run: Run
    job: Job
    step: Step | None = None
    attempt: Attempt | None = None


class Control:
    """Implements :class:`pilothouse.fleet.handlers.WorkControl`.

    A user needs ``run.control`` in the run's project; what they may not see does not exist for them. An agent may act
    on step runs that it was given, and on jobs whose workspace or work it holds.
    """

    def __init__(self, runs: RunCache, transitions: Transitions, fleet: Fleet, identity: Identity) -> None:
        self._runs = runs
        self._transitions = transitions
        self._fleet = fleet
        self._identity = identity

    # -- step runs --------------------------------------------------------------------------------------

    def check_step_run(self, conn: Connection, by: Principal, step_run_id: str, agent_id: str = "") -> None:
        """Raise what :meth:`cancel_step_run` would raise; only reads."""
        self._check_step_run(by, _find_step_run(conn, step_run_id), step_run_id, agent_id)

    def cancel_step_run(
        self, tx: Tx, by: Principal, step_run_id: str, reason: str, agent_id: str = ""
    ) -> None:
        """Cancel a step run: at once where no agent has started it, else its agent stops it and reports the end.

        ``agent_id``: the agent that is expected to run it, if the caller names one. Cancelling again has no effect.
        Raises :class:`StepRunNotFound`, :class:`StepRunOver`, :class:`NotItsWork`.
        """
        found = _find_step_run(tx.conn, step_run_id)
        if found is None:
            raise StepRunNotFound(step_run_id)
        run = self._runs.get(tx, found.run.id)
        part = _step_run_of(tx.conn, run, step_run_id)
        self._check_step_run(by, part, step_run_id, agent_id)
        assert part is not None, "it was found in this transaction"
        assert part.step is not None, "it is a step run"
        if part.step.stopping:
            return
        reason = reason or f"cancelled by {by.name}"
        self._identity.audit(tx, by, "step_run.cancel", step_run_id, {"run": run.id, "reason": reason})
        if part.step.current:
            self._transitions.steps.stop(tx, run, part.job, part.step, Status.CANCELLED, reason)
        else:
            steps = self._transitions.steps
            steps.finish(tx, run, part.job, part.step, Status.CANCELLED, reason=reason, alone=True)
        self._transitions.settle(tx, run, part.job)

    def _check_step_run(self, by: Principal, part: _Part | None, step_run_id: str, agent_id: str) -> None:
        if part is None or (by.kind != "agent" and not by.in_project(part.run.project)):
            raise StepRunNotFound(step_run_id)
        attempt, step = part.attempt, part.step
        assert attempt is not None, "it is a step run"
        assert step is not None, "it is a step run"
        if by.kind == "agent":
            if attempt.agent_id != by.id:
                raise NotItsWork(f"step run {step_run_id}")
        else:
            require(by, RIGHT, part.run.project)
        if agent_id and attempt.agent_id != agent_id:
            raise NotItsWork(f"step run {step_run_id}", agent_id)
        if attempt.status.over or (step.current and step.current != attempt.id):
            raise StepRunOver(attempt.status.value)

    # -- jobs -------------------------------------------------------------------------------------------

    def check_job(self, conn: Connection, by: Principal, job_id: str) -> None:
        """Raise what :meth:`cancel_job` would raise; only reads."""
        part = _find_job(conn, job_id)
        self._check_job(conn, by, part, job_id)
        assert part is not None, "it was checked"
        _check_going_on(part)

    def cancel_job(self, tx: Tx, by: Principal, job_id: str, reason: str) -> None:
        """Cancel what is left of a job: waiting steps at once, running ones are stopped, then its cleanup runs.

        Raises :class:`JobNotFound`, :class:`JobOver`, :class:`NotItsWork`.
        """
        part = self._job(tx, by, job_id)
        run, job = part.run, part.job
        _check_going_on(part)
        if job.stopping == Status.CANCELLED:
            return
        reason = reason or f"cancelled by {by.name}"
        self._identity.audit(tx, by, "job_run.cancel", job_id, {"run": run.id, "reason": reason})
        self._transitions.cancel_job(tx, run, job, reason)
        self._transitions.settle(tx, run, job)

    def held_of_job(self, conn: Connection, by: Principal, job_id: str) -> list[str]:
        """The step runs of a job that the agent holds. Raises :class:`JobNotFound`, :class:`NotItsWork`."""
        part = _find_job(conn, job_id)
        self._check_job(conn, by, part, job_id)
        assert part is not None, "it was checked"
        return _held(conn, by.id, part.job)

    def report_job(self, tx: Tx, by: Principal, job_id: str, report: TaskReport) -> Verdict:
        """Apply an agent's report on a whole job to all step runs of it that the agent holds.

        ``running`` renews their leases. Raises :class:`JobNotFound`, :class:`NotItsWork`, :class:`JobHasWork` if the
        agent holds nothing of the job and its status is another one.
        """
        part = self._job(tx, by, job_id)
        held = _held(tx.conn, by.id, part.job)
        if report.status is TaskStatus.RUNNING:
            if part.job.status.over:
                return Verdict.STALE
            for task_id in held:
                self._fleet.acknowledged(tx, by.id, task_id)
            return Verdict.REPEATED
        if not held:
            if part.job.status is _OF_JOB.get(report.status):
                return Verdict.REPEATED
            raise JobHasWork(
                f"the agent holds no step run of this job, which is {part.job.status.value}: its steps end it"
            )
        for task_id in held:
            self._fleet.report(tx, by.id, replace(report, task_id=task_id))
        return Verdict.ACCEPTED

    def _job(self, tx: Tx, by: Principal, job_id: str) -> _Part:
        found = _find_job(tx.conn, job_id)
        if found is None:
            raise JobNotFound(job_id)
        run = self._runs.get(tx, found.run.id)
        part = _Part(run, run.jobs[found.job.index])
        self._check_job(tx.conn, by, part, job_id)
        return part

    def _check_job(self, conn: Connection, by: Principal, part: _Part | None, job_id: str) -> None:
        if part is None or (by.kind != "agent" and not by.in_project(part.run.project)):
            raise JobNotFound(job_id)
        if by.kind != "agent":
            require(by, RIGHT, part.run.project)
        elif part.job.agent_id != by.id and not _held(conn, by.id, part.job):
            raise NotItsWork(f"job {job_id}")


def _check_going_on(part: _Part) -> None:
    if part.run.status.over:
        raise RunOver(part.run.status.value)
    if part.job.status.over:
        raise JobOver(part.job.name)


def _held(conn: Connection, agent_id: str, job: Job) -> list[str]:
    current = {step.current for step in job.unfinished if step.current}
    return [lease.id for lease in fleet_store.leases_of(conn, agent_id) if lease.id in current]


def _find_step_run(conn: Connection, step_run_id: str) -> _Part | None:
    at = find_step_run(conn, step_run_id)
    return None if at is None or deleted(at) else _Part(at.run, at.job, at.step, at.attempt)


def _step_run_of(conn: Connection, run: Run, step_run_id: str) -> _Part | None:
    """A step run of this run, with the state that the run has now."""
    stored = store.attempt(conn, step_run_id)
    if stored is not None:
        job, step = run.find_step(stored[1].step_id)
        return _Part(run, job, step, stored[1])
    found = find_unstarted(run, step_run_id)
    return None if found is None else _Part(run, *found)


def _find_job(conn: Connection, job_id: str) -> _Part | None:
    for found in find_jobs(conn, [job_id]):
        run = require_run(conn, found.run_id)
        job = next((job for job in run.jobs if job.id == job_id), None)
        if job is not None:
            return _Part(run, job)
    return None
