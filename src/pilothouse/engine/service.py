"""The use cases of runs: start, cancel, rerun, and what time brings."""

from __future__ import annotations

from dataclasses import dataclass, field

from uuid_utils import uuid7

from pilothouse.engine import store
from pilothouse.engine.checkouts import RepositoryCommit, remember, resolve
from pilothouse.engine.errors import NothingFailed, RunActive, RunOver
from pilothouse.engine.model import Job, Run, Status, Step
from pilothouse.engine.runs import Runs, require_run
from pilothouse.engine.spec import Job as JobSpec
from pilothouse.engine.spec import Spec
from pilothouse.engine.transitions import Transitions, run_standing
from pilothouse.identity.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx
from pilothouse.wire import entries


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a run is made from. ``checkout`` is the id of an uploaded blob, ``repositories`` what its git work
    tree is made of, the top first (docs/checkout.md)."""

    kind: str
    name: str
    project: str
    spec: Spec
    pipeline_id: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    trigger: str = "manual"
    checkout: str = ""
    branch: str = ""
    commit_sha: str = ""
    definition: str = ""
    repositories: tuple[RepositoryCommit, ...] = ()
    dirty: bool = False
    tag: str = ""


class Engine:
    """Starts runs and moves them on. Every method is a use case of one transaction."""

    def __init__(self, runs: Runs, transitions: Transitions, identity: Identity) -> None:
        self._runs = runs
        self._transitions = transitions
        self._identity = identity

    def start(self, tx: Tx, by: Principal, new: NewRun) -> Run:
        """Create a run and queue what can run at once."""
        run = Run(
            id=str(uuid7()),
            kind=new.kind,
            name=new.name,
            project=new.project,
            pipeline_id=new.pipeline_id,
            status=Status.PENDING,
            spec=new.spec,
            variables={**new.spec.variables, **new.variables},
            trigger=new.trigger,
            triggered_by=by.name,
            checkout=resolve(tx.conn, new.project, new.checkout, new.repositories, new.dirty),
            branch=new.branch,
            commit_sha=new.commit_sha or (new.repositories[0].commit if new.repositories else ""),
            tag=new.tag,
            definition=new.definition,
            created_at=tx.now,
            jobs=[
                _new_job(index, spec.name, [s.name for s in spec.steps])
                for index, spec in enumerate(new.spec.jobs)
            ],
        )
        remember(tx, new.project, new.repositories)
        return self._begin(tx, by, run, "run.trigger")

    def cancel(self, tx: Tx, by: Principal, run_id: str, reason: str) -> Run:
        """Stop a run: what waits is cancelled at once, what runs is told to stop. Raises :class:`RunOver`."""
        run = self._runs.get(tx, run_id)
        if run.status.over:
            raise RunOver(run.status.value)
        if not run.cancelling:
            run.cancel_reason = reason or f"cancelled by {by.name}"
            store.save(tx.conn, run)
            self._transitions.tell(
                tx, run, entries.RUN_CANCELLING, reason=run.cancel_reason, by=by.name, by_id=by.id
            )
            self._identity.audit(tx, by, "run.cancel", run_id, {"reason": run.cancel_reason})
        self._transitions.settle(tx, run)
        return run

    def rerun(self, tx: Tx, by: Principal, run_id: str, *, from_failed: bool) -> Run:
        """A new run of the same definition; ``from_failed`` keeps what succeeded, with its attempts.

        Raises :class:`RunActive` while the run goes on, :class:`NothingFailed` if there is nothing to try again.
        """
        old = require_run(tx.conn, run_id)
        if not old.status.over:
            raise RunActive("the run has not ended yet; cancel it or wait")
        if from_failed and old.status is Status.SUCCEEDED:
            raise NothingFailed("every step succeeded; rerun the whole run instead")
        jobs = [
            _kept_job(job, old.job_spec(job)) if from_failed else _new_job(job.index, job.name, [])
            for job in old.jobs
        ]
        run = Run(
            id=str(uuid7()),
            kind=old.kind,
            name=old.name,
            project=old.project,
            pipeline_id=old.pipeline_id,
            status=Status.PENDING,
            spec=old.spec,
            variables=old.variables,
            trigger=old.trigger,
            triggered_by=by.name,
            checkout=old.checkout,
            branch=old.branch,
            commit_sha=old.commit_sha,
            tag=old.tag,
            definition=old.definition,
            rerun_of=old.id,
            created_at=tx.now,
            jobs=jobs,
        )
        for job, before in zip(run.jobs, old.jobs, strict=True):
            if not job.steps:
                job.steps = [_new_step(job.id, step.index, step.name) for step in before.steps]
        return self._begin(tx, by, run, "run.rerun")

    def due(self, tx: Tx) -> list[str]:
        """The runs in which a delay or a timeout has run out; ask about every second."""
        return store.due_runs(tx.conn, tx.now)

    def move_on(self, tx: Tx, run_id: str) -> None:
        """Do what is due in a run: a use case for each, so that none can hold up the others."""
        self._transitions.settle(tx, self._runs.get(tx, run_id))

    def _begin(self, tx: Tx, by: Principal, run: Run, action: str) -> Run:
        store.insert_run(tx.conn, run)
        self._runs.adopt(tx, run)
        outline = [
            {
                "id": job.id,
                "name": job.name,
                "needs": list(run.job_spec(job).depends_on),
                "status": job.status,
                "steps": [{"id": step.id, "name": step.name, "status": step.status} for step in job.steps],
            }
            for job in run.jobs
        ]
        self._transitions.tell(
            tx,
            run,
            entries.RUN_CREATED,
            jobs=outline,
            trigger=run.trigger,
            by=by.name,
            by_id=by.id,
            rerun_of=run.rerun_of,
            **run_standing(run),
        )
        self._identity.audit(tx, by, action, run.id, {"name": run.name, "rerun_of": run.rerun_of})
        self._transitions.settle(tx, run)
        return run


def _new_job(index: int, name: str, steps: list[str]) -> Job:
    job_id = str(uuid7())
    job = Job(id=job_id, index=index, name=name, status=Status.PENDING, workspace=job_id)
    job.steps = [_new_step(job_id, at, step) for at, step in enumerate(steps)]
    return job


def _new_step(job_id: str, index: int, name: str) -> Step:
    return Step(id=str(uuid7()), job_id=job_id, index=index, name=name, status=Status.PENDING)


def _kept_job(old: Job, spec: JobSpec) -> Job:
    """A job of a rerun from the failed step: over if it succeeded, else bound to its old workspace.

    What came after the step that failed is done again: cleaning up, say.
    """
    job = _new_job(old.index, old.name, [])
    job.kept_from = old.id
    if old.status in (Status.SUCCEEDED, Status.SKIPPED):
        job.status, job.reason = old.status, old.reason
        job.started_at, job.finished_at = old.started_at, old.finished_at
    kept_any = broken = False
    for before in old.steps:
        forgiven = before.status.bad and spec.steps[before.index].continue_on_error
        broken = broken or not (before.status in (Status.SUCCEEDED, Status.SKIPPED) or forgiven)
        step = _new_step(job.id, before.index, before.name)
        step.kept_from = before.id
        if job.status.over or (not broken and before.status is not Status.SKIPPED):
            kept_any = True
            step.status, step.reason, step.outputs = before.status, before.reason, before.outputs
            step.started_at, step.finished_at = before.started_at, before.finished_at
        job.steps.append(step)
    if kept_any and not job.status.over:
        job.workspace, job.agent_id, job.fresh = old.workspace, old.agent_id, False
    if job.status is Status.SKIPPED:  # skipped because something failed: it may run this time
        job.status, job.reason, job.started_at, job.finished_at = Status.PENDING, "", 0, 0
        job.workspace, job.agent_id, job.fresh = job.id, "", True
        for step in job.steps:
            step.status, step.reason, step.started_at, step.finished_at = Status.PENDING, "", 0, 0
    return job
