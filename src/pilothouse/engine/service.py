"""The use cases of runs: start, cancel, pause, extend and rerun them, and process what is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.engine import store
from pilothouse.engine.checkouts import RepositoryCommit, SourceTree, remember, resolve, with_sources
from pilothouse.engine.errors import JobEnding, JobOver, NothingFailed, RunActive, RunOver, RunPaused
from pilothouse.engine.gates.parent import Parent
from pilothouse.engine.graph import Graph
from pilothouse.engine.graph import Job as JobSpec
from pilothouse.engine.graph import Step as StepSpec
from pilothouse.engine.graph_json import encoded
from pilothouse.engine.growth import Addition, check_addition, check_graph, grown
from pilothouse.engine.model import Job, Run, Status
from pilothouse.engine.name_checks import check_names
from pilothouse.engine.names import NamesUsed, names_of
from pilothouse.engine.problems import SpecError, SpecProblem, shown
from pilothouse.engine.reruns import kept_jobs, new_jobs
from pilothouse.engine.runs import RunCache, require_run
from pilothouse.engine.starts import Starts
from pilothouse.engine.transitions import Transitions
from pilothouse.identity.service import Identity
from pilothouse.secrets.service import Secrets
from pilothouse.storage import Tx


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a run. ``pipeline_id``: id of its definition, ``definition``: the head of the saved spec.

    ``checkout``: id of an uploaded blob; ``repositories``: those of its git work tree, the top first
    (docs/checkout.md); ``dirty``: the tree differs from its commit. ``checkout_of``: that of another run, as stored,
    in place of these. ``sources``: the work trees of jobs with a source, by name.
    """

    pipeline_id: str = ""
    definition: str = ""
    branch: str = ""
    commit_sha: str = ""
    tag: str = ""
    checkout: str = ""
    repositories: tuple[RepositoryCommit, ...] = ()
    dirty: bool = False
    checkout_of: dict[str, Any] | None = None
    sources: Mapping[str, SourceTree] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewRun:
    """The input for a new run. ``stored`` and ``names``: the graph's JSON text and the names it uses, if known.

    Both are slow for a large graph, so callers should compute them before the transaction, and check the graph
    (``growth.check_graph``). ``parent``: the gate that waits for the run; ``depth``: without one, the number of runs
    that led to it by their events.
    """

    kind: str
    name: str
    project: str
    graph: Graph
    origin: Origin = field(default_factory=Origin)
    variables: dict[str, str] = field(default_factory=dict)
    trigger: str = "manual"
    stored: str = ""
    names: NamesUsed | None = None
    parent: Parent | None = None
    depth: int = 0


class Engine:
    """The use cases of runs. Every method runs in one transaction."""

    def __init__(
        self,
        runs: RunCache,
        transitions: Transitions,
        identity: Identity,
        secrets: Secrets,
        starts: Starts,
    ) -> None:
        self._runs = runs
        self._starts = starts
        self._transitions = transitions
        self._identity = identity
        self._secrets = secrets

    def start(self, tx: Tx, by: Principal, new: NewRun) -> Run:
        """Create a run and queue its first steps.

        Raises SpecError for an invalid graph, a missing variable or secret, or an unknown variable; GateInvalid if
        its parent may not wait for it; and as :meth:`Starts.check`.
        """
        graph, origin = new.graph, new.origin
        if not new.stored:
            check_graph(graph)
        if new.parent is not None:
            new.parent.check(origin.pipeline_id)
        checkout = origin.checkout_of or resolve(
            tx.conn, new.project, origin.checkout, origin.repositories, origin.dirty
        )
        checkout = with_sources(tx.conn, new.project, checkout, origin.sources)
        _check_sources(graph, checkout)
        names = new.names or names_of(graph)
        self.check_names(tx.conn, new.project, names, graph.variables, new.variables, origin.pipeline_id)
        run_id = str(uuid7())
        run = Run(
            id=run_id,
            kind=new.kind,
            name=new.name,
            project=new.project,
            pipeline_id=origin.pipeline_id,
            status=Status.PENDING,
            graph=graph,
            variables={**graph.variables, **new.variables},
            trigger=new.trigger,
            triggered_by=by.name,
            triggered_by_id=by.id,
            checkout=checkout,
            branch=origin.branch,
            commit_sha=origin.commit_sha or (origin.repositories[0].commit if origin.repositories else ""),
            tag=origin.tag,
            definition=origin.definition,
            parent_gate=new.parent.gate if new.parent else "",
            depth=new.parent.depth if new.parent else new.depth,
            created_at=tx.now,
            jobs=new_jobs(run_id, graph),
        )
        remember(tx, new.project, origin.repositories)
        for tree in origin.sources.values():
            remember(tx, new.project, tree.repositories)
        return self._starts.begin(tx, by, run, "run.trigger", new.stored or encoded(graph))

    def cancel(self, tx: Tx, by: Principal, run_id: str, reason: str, *, force: bool = False) -> Run:
        """Cancel a run: waiting steps are cancelled immediately, running steps are stopped, then cleanup steps run.

        ``force``: without cleanup, which is also stopped if it is running. Another cancel has no further effect.
        Raises :class:`RunOver`.
        """
        run = self._going_on(tx, run_id)
        if not run.cancelling or (force and not run.forced):
            self._transitions.cancel(
                tx, run, reason or f"cancelled by {by.name}", force=force, by=by.name, by_id=by.id
            )
            self._identity.audit(tx, by, "run.cancel", run_id, {"reason": run.cancel_reason, "force": force})
        self._transitions.settle(tx, run)
        return run

    def pause(self, tx: Tx, by: Principal, run_id: str) -> Run:
        """Start no more steps of a run. Raises :class:`RunOver`, :class:`RunPaused`."""
        run = self._going_on(tx, run_id)
        if run.paused_at or run.cancelling:
            raise RunPaused("the run is being cancelled" if run.cancelling else "the run is paused already")
        if run.waits_for:
            raise RunPaused(f"the run has not started: it {run.reason}")
        self._transitions.pause(tx, run, by=by.name, by_id=by.id)
        self._identity.audit(tx, by, "run.pause", run_id)
        return run

    def resume(self, tx: Tx, by: Principal, run_id: str) -> Run:
        """Resume a paused run. Raises :class:`RunOver`, :class:`RunPaused`."""
        run = self._going_on(tx, run_id)
        if not run.paused_at:
            raise RunPaused("the run is not paused")
        self._transitions.resume(tx, run, by=by.name, by_id=by.id)
        self._identity.audit(tx, by, "run.resume", run_id)
        self._transitions.settle(tx, run)
        return run

    def extend(self, tx: Tx, by: Principal, run_id: str, addition: Addition) -> Run:
        """Add jobs, and steps of jobs that are not over, to an active run; they have step runs immediately.

        Raises :class:`RunOver`, :class:`JobOver`, :class:`JobEnding`, SpecError if the resulting graph is invalid (as
        for a new run).
        """
        run = self._going_on(tx, run_id)
        check_addition(run.graph, addition)
        over = [name for name in addition.steps if run.job(name).status.over]
        if over:
            raise JobOver(over[0])
        for name in addition.steps:
            _check_open_end(tx.conn, run.job(name))
        graph = grown(run.graph, addition)
        check_graph(graph)
        added = replace(
            graph, jobs=(*addition.jobs, *(_only(run.job(n), s) for n, s in addition.steps.items()))
        )
        self.check_names(tx.conn, run.project, names_of(added), run.variables, {}, run.pipeline_id)
        self._transitions.extend(tx, run, graph, addition, by=by.name, by_id=by.id)
        count = len(addition.jobs) + sum(map(len, addition.steps.values()))
        self._identity.audit(tx, by, "run.extend", run_id, {"added": count})
        self._transitions.settle(tx, run)
        return run

    def _going_on(self, tx: Tx, run_id: str) -> Run:
        run = self._runs.get(tx, run_id)
        if run.status.over:
            raise RunOver(run.status.value)
        return run

    def rerun(
        self,
        tx: Tx,
        by: Principal,
        run_id: str,
        *,
        from_failed: bool,
        names: NamesUsed | None = None,
        stored: str = "",
        loaded: Run | None = None,
    ) -> Run:
        """Create a new run of the same definition; ``from_failed`` keeps succeeded steps and their attempts.

        ``names`` and ``stored``: of the run's graph, as in :class:`NewRun`, if known. ``loaded``: the run as read
        before the transaction, which saves the writer from loading it; it is used if it had ended and is unchanged.

        Raises :class:`RunActive` while the run is active, :class:`NothingFailed` if no step failed, SpecError if a
        required secret was deleted; and as :meth:`Starts.check`.
        """
        old = loaded if loaded and _still_ended(tx.conn, loaded) else require_run(tx.conn, run_id)
        if not old.status.over:
            raise RunActive("the run has not ended yet; cancel it or wait")
        if from_failed and old.status is Status.SUCCEEDED:
            raise NothingFailed("every step succeeded; rerun the whole run instead")
        names = names or names_of(old.graph)
        self.check_names(tx.conn, old.project, names, old.variables, {}, old.pipeline_id)
        run_id = str(uuid7())
        run = Run(
            id=run_id,
            kind=old.kind,
            name=old.name,
            project=old.project,
            pipeline_id=old.pipeline_id,
            status=Status.PENDING,
            graph=old.graph,
            variables=old.variables,
            trigger=old.trigger,
            triggered_by=by.name,
            triggered_by_id=by.id,
            checkout=old.checkout,
            branch=old.branch,
            commit_sha=old.commit_sha,
            tag=old.tag,
            definition=old.definition,
            rerun_of=old.id,
            created_at=tx.now,
            jobs=kept_jobs(run_id, old) if from_failed else new_jobs(run_id, old.graph),
        )
        return self._starts.begin(tx, by, run, "run.rerun", stored or encoded(old.graph))

    def check_names(
        self,
        conn: Connection,
        project: str,
        names: NamesUsed,
        declared: Mapping[str, str],
        given: Mapping[str, str],
        pipeline_id: str = "",
    ) -> None:
        """The check of secrets and variables in :meth:`start`, without changes. Raises SpecError.

        ``declared``: the variables with a value in the spec; ``given``: those of the run.
        """
        missing = self._secrets.missing(conn, project, names.secrets, pipeline_id)
        check_names(names, declared, given, missing)

    def due(self, tx: Tx) -> list[str]:
        """The runs in which a delay or timeout has passed; to be called about every second."""
        return store.due_runs(tx.conn, tx.now)

    def move_on(self, tx: Tx, run_id: str) -> None:
        """Process what is due in a run. To be called in a separate transaction for each run."""
        self._transitions.settle(tx, self._runs.get(tx, run_id))


def _still_ended(conn: Connection, run: Run) -> bool:
    row = store.run_row(conn, run.id)
    return (
        row is not None and run.status.over and (row.status, row.finished_at) == (run.status, run.finished_at)
    )


def _only(job: Job, steps: tuple[StepSpec, ...]) -> JobSpec:
    return replace(job.spec, steps=steps)


def _check_open_end(conn: Connection, job: Job) -> None:
    """Raises :class:`JobEnding`."""
    last = job.steps[-1] if job.steps else None
    if last is None or not last.current or job.step_spec(last).gate:
        return
    found = store.attempt(conn, last.current)
    if found is not None and found[1].agent_id:
        raise JobEnding(job.name)


def _check_sources(graph: Graph, checkout: Mapping[str, Any] | None) -> None:
    """Raises SpecError if the work tree of a job's source was not fetched before the transaction."""
    fetched = (checkout or {}).get("jobs", {})
    missing = [at for at, job in enumerate(graph.jobs) if job.source is not None and job.name not in fetched]
    if missing:
        job = shown(graph.jobs[missing[0]].name)
        said = f"the repository of job {job} cannot be fetched for a run that a step starts"
        raise SpecError([SpecProblem(said, 0, 0, "", f"jobs[{missing[0]}].source")], "<spec>")
