"""The use cases of single step runs: change, delete and retry them, and add steps to jobs. See also control.py."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.engine import ids, store
from pilothouse.engine.errors import (
    ApprovalFixed,
    JobNotFound,
    NotRetryable,
    RunNotFound,
    StepHandedOut,
    StepRunNotFound,
    StepRunOver,
)
from pilothouse.engine.gates.model import HOLD
from pilothouse.engine.graph import Step as StepSpec
from pilothouse.engine.growth import Addition
from pilothouse.engine.lookup import find_step_run
from pilothouse.engine.model import Job, Run, Status
from pilothouse.engine.names import names_of
from pilothouse.engine.reruns import depending
from pilothouse.engine.runs import Place, RunCache, require_run
from pilothouse.engine.service import Engine
from pilothouse.engine.starts import Starts
from pilothouse.engine.transitions import Transitions
from pilothouse.engine.unstarted import find_unstarted
from pilothouse.fleet import store as fleet_store
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx
from pilothouse.wire import entries


class StepRuns:
    """Every method that takes a ``Tx`` is a use case in one transaction."""

    def __init__(
        self, runs: RunCache, transitions: Transitions, identity: Identity, engine: Engine, starts: Starts
    ) -> None:
        self._runs = runs
        self._transitions = transitions
        self._identity = identity
        self._engine = engine
        self._starts = starts

    def create(self, tx: Tx, by: Principal, run_id: str, job_name: str, step: StepSpec) -> str:
        """Append a step to a job that has not ended; returns the id of its step run. Raises as
        :meth:`Engine.extend`."""
        run = self._engine.extend(tx, by, run_id, Addition(steps={job_name: (step,)}))
        job = run.job(job_name)
        return ids.first_step_run_id(run.id, job.index, len(job.steps) - 1)

    def update(self, tx: Tx, by: Principal, step_run_id: str, **fields: object) -> None:
        """Change fields (of :class:`StepSpec`) of a step that was not handed out yet.

        Raises :class:`StepRunNotFound`, :class:`StepRunOver`, :class:`StepHandedOut`, :class:`ApprovalFixed`,
        SpecError for a missing secret or variable.
        """
        at = self._changeable(tx, by, step_run_id)
        old = at.job.step_spec(at.step)
        spec = replace(old, **fields)  # type: ignore[arg-type]
        job = replace(at.job.spec, steps=(spec,))
        names = names_of(replace(at.run.graph, jobs=(job,)))
        self._engine.check_names(tx.conn, at.run.project, names, at.run.variables, {}, at.run.pipeline_id)
        self._replace(tx, by, at, spec, sorted(fields))
        self._identity.audit(
            tx, by, "step_run.update", step_run_id, {"run": at.run.id, "fields": sorted(fields)}
        )

    def delete(self, tx: Tx, by: Principal, step_run_id: str) -> None:
        """Delete a step that was not handed out yet: it is skipped, and not listed. Raises as :meth:`update`."""
        at = self._changeable(tx, by, step_run_id)
        self._replace(tx, by, at, replace(at.job.step_spec(at.step), removed=True), [])
        self._identity.audit(tx, by, "step_run.delete", step_run_id, {"run": at.run.id})

    def _replace(self, tx: Tx, by: Principal, at: Place, spec: StepSpec, fields: list[str]) -> None:
        self._transitions.replace_step(
            tx, at.run, at.job, at.step, spec, fields=fields, by=by.name, by_id=by.id
        )
        self._transitions.settle(tx, at.run, at.job)

    def _changeable(self, tx: Tx, by: Principal, step_run_id: str) -> Place:
        at = self._place(tx, by, step_run_id, "run.control")
        if at.attempt.status.over or (at.step.current and at.step.current != at.attempt.id):
            raise StepRunOver(at.attempt.status.value)
        taken = at.attempt.agent_id or fleet_store.lease(tx.conn, at.attempt.id) is not None
        if taken or at.attempt.status is Status.RUNNING or at.step.stopping:
            raise StepHandedOut
        if at.job.step_spec(at.step).gate == HOLD:
            raise ApprovalFixed
        return at

    def retry(self, tx: Tx, by: Principal, step_run_id: str) -> str:
        """Try a step again, and what depends on it; an ended run is opened again. Returns the new step run's id.

        Raises :class:`StepRunNotFound`, :class:`NotRetryable`; and as :meth:`Starts.check_again`.
        """
        at = self._place(tx, by, step_run_id, "run.trigger")
        run, job, step = at.run, at.job, at.step
        _check_retry(at)
        if run.status.over:
            self._starts.check_again(tx, by, run)
        self._identity.audit(tx, by, "step_run.retry", step_run_id, {"run": run.id})
        self._transitions.reopen(tx, run, job, step, by=by.name, by_id=by.id)
        self._transitions.settle(tx, run, job)
        return step.current

    def _place(self, tx: Tx, by: Principal, step_run_id: str, action: str) -> Place:
        """The step run with the run as it is now."""
        found = visible(tx.conn, by, step_run_id, action)
        run = self._runs.get(tx, found.run.id)
        stored = store.attempt(tx.conn, step_run_id)
        if stored is not None:
            job, step = run.find_step(stored[1].step_id)
            return Place(run, job, step, stored[1])
        unstarted = find_unstarted(run, step_run_id)
        if unstarted is None:
            raise StepRunNotFound(step_run_id)
        return Place(run, *unstarted)


def visible(conn: Connection, by: Principal, step_run_id: str, action: str) -> Place:
    """The stored step run, if the caller may do ``action``. Raises :class:`StepRunNotFound`."""
    at = find_step_run(conn, step_run_id)
    if at is None or not by.sees(entries.project_scope(at.run.project)) or deleted(at):
        raise StepRunNotFound(step_run_id)
    require(by, action, at.run.project)
    return at


def deleted(at: Place) -> bool:
    """Whether the step was deleted before this attempt was handed out."""
    return at.job.step_spec(at.step).removed and not at.attempt.started_at


def visible_job(
    conn: Connection, by: Principal, run_id: str, job_id: str, name: str, action: str
) -> tuple[Run, Job]:
    """A stored run and its job of this id and name, of which one may be empty.

    Raises :class:`RunNotFound`, :class:`JobNotFound`.
    """
    row = store.run_row(conn, run_id)
    if row is None or not by.sees(entries.project_scope(row.project)):
        raise RunNotFound(run_id)
    require(by, action, row.project)
    run = require_run(conn, run_id)
    for job in run.jobs:
        if job_id in ("", job.id) and name in ("", job.name):
            return run, job
    raise JobNotFound(job_id or name)


def _check_retry(at: Place) -> None:
    """Raises :class:`NotRetryable`."""
    run, job, step = at.run, at.job, at.step
    if step.status not in (Status.FAILED, Status.TIMED_OUT, Status.CANCELLED):
        raise NotRetryable(
            f"the step is {step.status.value}; one that failed or was cancelled can be tried again"
        )
    if run.cancelling and not run.status.over:
        raise NotRetryable("the run is being cancelled")
    if not job.status.over:
        raise NotRetryable(f"job '{job.name}' has not ended yet")
    dependents = depending(run, {job.name})
    busy = [
        one.name
        for one in run.jobs
        if one.name in dependents and one.status in (Status.RUNNING, Status.QUEUED)
    ]
    if busy:
        raise NotRetryable(f"job '{busy[0]}', which depends on it, is running")
    failing = job.failing
    if failing is not None and failing.index < step.index:
        raise NotRetryable(f"step '{failing.name}' before it did not succeed: try that one again")
