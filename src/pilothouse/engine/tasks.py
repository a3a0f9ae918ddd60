"""Step attempts as tasks of the fleet: builds tasks for agents and applies their reports."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection

from pilothouse.engine import store
from pilothouse.engine.checkouts import for_agent
from pilothouse.engine.contexts import context
from pilothouse.engine.derived import derived_values
from pilothouse.engine.graph import Graph, Job
from pilothouse.engine.intake.maskers import FEW, HIDDEN, Maskers, short
from pilothouse.engine.model import JOB_ENDED, LOST, Status
from pilothouse.engine.names import secrets_of
from pilothouse.engine.runs import Place, RunCache
from pilothouse.engine.step_payload import StepPayload
from pilothouse.engine.transitions import Transitions
from pilothouse.expressions import (
    TREE_STEPS,
    ExpressionError,
    check_length,
    render,
    render_tree,
    secret_names,
)
from pilothouse.expressions.secrecy import bare, joined, marked
from pilothouse.expressions.values import Budget, insert_text
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.handlers import MAX_ERROR, MAX_METRIC, MAX_METRICS
from pilothouse.fleet.model import Lease, LeaseState, Task, TaskReport, TaskStatus, WorkKind
from pilothouse.secrets.service import MAX_LINES, MAX_OF_RUN, MAX_VALUES, Secrets
from pilothouse.storage import Tx
from pilothouse.wire.masking import TooDense

STEP = WorkKind("step")
"""Step attempts, but for those of background steps."""
BACKGROUND = WorkKind("background", until_started=True)
"""Attempts of background steps: their job goes on beside them in the slot."""

_STATUS = {
    TaskStatus.SUCCEEDED: Status.SUCCEEDED,
    TaskStatus.FAILED: Status.FAILED,
    TaskStatus.CANCELLED: Status.CANCELLED,
    TaskStatus.TIMED_OUT: Status.TIMED_OUT,
    TaskStatus.SKIPPED: Status.SKIPPED,
}
_NAMES_KEPT = 256

WORKSPACE_GONE = "the workspace of this job is gone"
"""How the error of an agent begins that no longer has the workspace in which a step was to go on."""


class TaskInvalid(Exception):
    """The attempt cannot be handed out, since an expression fails or a secret is missing."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """``derived``: what expressions have made of the secrets."""

    env: dict[str, str]
    args: Any
    secrets: dict[str, str] = field(default_factory=dict)
    derived: frozenset[str] = frozenset()


class StepTasks:
    """The fleet's handler for step attempts."""

    def __init__(self, runs: RunCache, transitions: Transitions, secrets: Secrets) -> None:
        self._runs = runs
        self._transitions = transitions
        self._secrets = secrets
        self.maskers = Maskers()
        self._names: OrderedDict[int, tuple[object, frozenset[str]]] = OrderedDict()

    # -- TaskHandler ------------------------------------------------------------------------------------

    def started(self, tx: Tx, lease: Lease) -> None:
        """See ``TaskHandler``."""
        at = self._current(tx, lease)
        if at is None:
            return
        self._transitions.steps.start_attempt(tx, at.run, at.job, at.step, at.attempt, lease.agent_id)
        if lease.kind == BACKGROUND.name:  # the job continues meanwhile
            self._transitions.settle(tx, at.run, at.job)

    def finished(self, tx: Tx, lease: Lease, report: TaskReport) -> None:
        """See ``TaskHandler``; also starts dependent steps and jobs."""
        at = self._current(tx, lease)
        if at is None:
            return
        status, error = _STATUS[report.status], self._error(tx.conn, at, report)
        if status is Status.FAILED and error.startswith(WORKSPACE_GONE):
            self._transitions.lose_attempt(tx, at.run, at.job, at.step, error, started=True, gone=True)
            self._transitions.settle(tx, at.run, at.job)
            return
        if status.bad and not error:
            error = f"exit code {report.exit_code}" if report.exit_code else "failed"
        self._transitions.steps.end_attempt(
            tx,
            at.run,
            at.job,
            at.step,
            status,
            exit_code=report.exit_code,
            error=error,
            metrics=self._metrics(tx.conn, at, report),
        )
        self._transitions.settle(tx, at.run, at.job)

    def lost(self, tx: Tx, lease: Lease, reason: str) -> None:
        """See ``TaskHandler``."""
        at = self._current(tx, lease)
        if at is None:
            return
        agent = fleet_store.agent(tx.conn, lease.agent_id)
        self._transitions.lose_attempt(
            tx,
            at.run,
            at.job,
            at.step,
            self._masked(tx.conn, at, reason, MAX_ERROR, otherwise=reason[:MAX_ERROR]),
            started=lease.state is LeaseState.STARTED,
            gone=agent is None or not agent.online,
        )
        self._transitions.settle(tx, at.run, at.job)

    def task(self, tx: Tx, lease: Lease) -> Task | None:
        """See ``TaskHandler``."""
        at = self._current(tx, lease, changes=False)
        if at is None:
            return None
        try:
            return self.build(tx, at)
        except TaskInvalid:
            return None

    def cancel_reason(self, tx: Tx, lease: Lease) -> str | None:
        """See ``TaskHandler``."""
        at = self._runs.place(tx, lease.id, changes=False)
        if at is None or at.step.current != lease.id:
            return "no longer wanted"
        return at.step.reason if at.step.stopping else None

    def repeated(self, conn: Connection, agent_id: str, report: TaskReport) -> bool:
        """See ``TaskHandler``."""
        found = store.attempt(conn, report.task_id)
        if found is None:
            return False
        attempt = found[1]
        if attempt.agent_id != agent_id or not attempt.started_at or attempt.error.startswith(LOST):
            return False
        # A stopped attempt gets the status for which it was stopped, whatever failure its agent reports.
        stopped = attempt.status in (Status.CANCELLED, Status.TIMED_OUT) or attempt.reason == JOB_ENDED
        return attempt.status is _STATUS.get(report.status) or (
            stopped and report.status is not TaskStatus.SUCCEEDED
        )

    # -- handing out ------------------------------------------------------------------------------------

    def build(self, tx: Tx, at: Place) -> Task:
        """Evaluate expressions and build the task. Raises :class:`TaskInvalid`."""
        run, job, step = at.run, at.job, at.step
        spec = job.step_spec(step)
        try:
            filled = self._fill_in(tx.conn, at)
            self._keep_derived(tx, at, filled.derived)
            mask = self._mask_of_job(tx.conn, at)
        except ExpressionError as error:
            raise TaskInvalid(str(error)) from error
        payload = StepPayload(
            run_id=run.id,
            pipeline_id=run.pipeline_id or run.id,
            job_id=job.id,
            job_name=job.name,
            name=step.name,
            index=step.index,
            uses=spec.uses,
            action=spec.action,
            args=filled.args,
            env=filled.env,
            workspace=job.workspace,
            image=run.graph.image,
            attempt=at.attempt.number,
            checkout=for_agent(run.checkout, job.name),
            continue_on_error=spec.continue_on_error,
            fresh_workspace=job.fresh,
            last_in_job=_last_in_job(at),
            pipeline_name=run.name,
            branch=run.branch,
            commit_sha=run.commit_sha,
            tag=run.tag,
            event=run.trigger,
            background=spec.background,
        )
        kind = BACKGROUND if spec.background else STEP
        return Task(at.attempt.id, kind.name, payload, run.project, spec.timeout, filled.secrets, mask)

    def _fill_in(self, conn: Connection, at: Place) -> _Filled:
        """Environment and arguments with evaluated expressions, and the secrets used in them."""
        spec = at.job.step_spec(at.step)
        layers = [at.run.graph.env, at.job.spec.env, spec.env]
        if not any(
            map(_has_expression, (*layers, spec.args))
        ):  # the context of expressions is as large as the run
            return _Filled({name: value for layer in layers for name, value in layer.items()}, spec.args)
        check_length((*layers, spec.args))
        secrets = self._wanted_secrets(conn, at)
        roots = {
            **context(at.run, at.job, at.step),
            "secrets": {name: marked(value) for name, value in secrets.items()},
        }
        budget = Budget(TREE_STEPS)  # of the whole attempt
        env = _layered(layers, roots, budget)
        args = render_tree(spec.args, {**roots, "env": env}, budget=budget)
        if not secrets:
            return _Filled(env, args)
        derived = derived_values((env, args), frozenset(secrets.values()), (*layers, spec.args))
        return _Filled(bare(env), bare(args), secrets, derived)

    def mask_values(self, conn: Connection, at: Place) -> frozenset[str]:
        """The secret values to be masked in everything that this attempt reports: those of its whole run.

        Steps share a workspace, so one step may print a secret that another has written to a file.
        """
        return self._values_since(conn, at, self.secret_names(at.run.graph)) | self._derived(conn, at)

    def secret_names(self, graph: Graph | Job) -> frozenset[str]:
        """The secrets that a graph or one of its jobs needs; cached, since graphs are large and immutable."""
        known = self._names.get(id(graph))
        if known is None or known[0] is not graph:
            known = self._names[id(graph)] = (graph, secrets_of(graph))
            if len(self._names) > _NAMES_KEPT:
                self._names.popitem(last=False)
        return known[1]

    def secrets_changed(self) -> int:
        """A counter that increases whenever a secret changes on this server."""
        return self._secrets.changes

    def _mask_of_job(self, conn: Connection, at: Place) -> tuple[str, ...]:
        """The values that the agent masks besides this step's secrets: those of other steps in its workspace.

        The agent must mask them, since it may send parts of a line that the server cannot mask together.
        Raises :class:`TaskInvalid` if there are too many.
        """
        names = self.secret_names(at.run.graph)
        if not names:
            return ()
        derived = self._derived(conn, at)
        every = self._values_since(conn, at, names) | derived
        if len(every) > MAX_VALUES:
            raise TaskInvalid(f"an attempt has at most {MAX_VALUES} masked values; this run has {len(every)}")
        if sum(map(len, every)) > MAX_OF_RUN:
            raise TaskInvalid(f"the secrets of this run have more than {MAX_OF_RUN} characters together")
        shared = self.secret_names(at.job.spec) | secret_names(dict(at.run.graph.env))
        return tuple(sorted(self._values_since(conn, at, shared) | derived))

    def _derived(self, conn: Connection, at: Place) -> frozenset[str]:
        """What expressions of this run have made of secrets until now."""
        if not self.secret_names(at.run.graph):
            return frozenset()
        return self._secrets.derived(conn, at.run.project, at.run.id)

    def _keep_derived(self, tx: Tx, at: Place, derived: frozenset[str]) -> None:
        """Raises :class:`TaskInvalid`."""
        if not derived:
            return
        if any(value.count("\n") >= MAX_LINES for value in derived):
            raise TaskInvalid(f"a value that is made from secrets has at most {MAX_LINES} lines")
        every = derived | self._derived(tx.conn, at)
        if len(every) > MAX_VALUES or sum(map(len, every)) > MAX_OF_RUN:
            raise TaskInvalid(
                f"expressions make more than {MAX_VALUES} values, or {MAX_OF_RUN} characters, of secrets"
            )
        self._secrets.keep_derived(tx, at.run.project, at.run.id, every)

    def _values_since(self, conn: Connection, at: Place, names: frozenset[str]) -> frozenset[str]:
        if not names:
            return frozenset()
        run = at.run
        return frozenset(
            self._secrets.values_since(conn, run.project, names, run.created_at, run.pipeline_id)
        )

    def _wanted_secrets(self, conn: Connection, at: Place) -> dict[str, str]:
        names = _secret_names(at)
        values = self._secrets.values(conn, at.run.project, names, at.run.pipeline_id) if names else {}
        missing = sorted(_secret_names(at, needed=True) - values.keys()) if names - values.keys() else []
        if missing:
            raise TaskInvalid(f"there is no (readable) secret named {', '.join(missing)} in this project")
        return values

    def _error(self, conn: Connection, at: Place, report: TaskReport) -> str:
        """The error that an agent reported, masked and within limits."""
        if report.screened:
            return _printable(report.error)
        return self._masked(conn, at, report.error, MAX_ERROR, otherwise=HIDDEN)

    def _masked(self, conn: Connection, at: Place, text: str, most: int, *, otherwise: str) -> str:
        """The beginning of a text, masked, or ``otherwise`` where that is too costly for a transaction."""
        values = self.mask_values(conn, at) if text else None
        if not values:
            return _printable(text[:most])
        if not short(values):
            return _printable(otherwise)
        try:
            return self.maskers.of(values).bounded(FEW).mask_start(_printable(text), most)[:most]
        except TooDense:
            return HIDDEN

    def _metrics(self, conn: Connection, at: Place, report: TaskReport) -> dict[str, str]:
        """The metrics that an agent reported, masked and within limits."""
        metrics = list(report.metrics.items())[:MAX_METRICS]
        if report.screened:
            return {_printable(name): _printable(value) for name, value in metrics}
        shown = partial(self._masked, conn, at, most=MAX_METRIC, otherwise=HIDDEN)
        return {shown(name): shown(value) for name, value in metrics}

    def _current(self, tx: Tx, lease: Lease, *, changes: bool = True) -> Place | None:
        at = self._runs.place(tx, lease.id, changes=changes)
        return at if at is not None and at.step.current == lease.id else None


def _printable(text: str) -> str:
    return text.replace("\x00", "\ufffd")  # PostgreSQL cannot store it


def _last_in_job(at: Place) -> bool:
    """Whether the workspace is no longer needed if this attempt succeeds."""
    steps = at.job.steps
    # After a failure or cancel the workspace may be used for a rerun, and background steps may still use it.
    kept = any(step.status.bad or step.status is Status.CANCELLED for step in steps)
    background = any(spec.background for spec in at.job.spec.steps)
    return at.step.index == len(steps) - 1 and not kept and not background


def _secret_names(at: Place, *, needed: bool = False) -> frozenset[str]:
    spec = at.job.step_spec(at.step)
    layers = [dict(at.run.graph.env), dict(at.job.spec.env), dict(spec.env), spec.args]
    return secret_names(layers, needed=needed)


def _has_expression(tree: Any) -> bool:
    if isinstance(tree, str):
        return "${{" in tree
    if isinstance(tree, Mapping):
        return any(map(_has_expression, tree.values()))
    return isinstance(tree, list | tuple) and any(map(_has_expression, tree))


def _layered(layers: list[Any], roots: dict[str, Any], budget: Budget) -> dict[str, str]:
    env: dict[str, str] = {}
    for layer in layers:
        scope = {**roots, "env": dict(env)}
        filled = {name: render(value, scope, budget=budget) for name, value in layer.items()}
        env.update({name: joined(_text(value), [value]) for name, value in filled.items()})
    return env


def _text(value: Any) -> str:
    return value if isinstance(value, str) else insert_text(value)
