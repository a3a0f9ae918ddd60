"""The only place where runs start: new ones, reruns, child runs, and ended runs that are opened again.

Whatever starts a run (a request, a gate of another run, a timer, a webhook), the same is checked here, in the
transaction of the start: the rights of who starts it, whether its definition may run now, and how many runs its
project has.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.access.quotas import DEFAULTS, Quotas, check_quota
from pilothouse.engine import run_counts, store
from pilothouse.engine.concurrency import Groups
from pilothouse.engine.list_store import count_unfinished
from pilothouse.engine.model import Run
from pilothouse.engine.runs import RunCache
from pilothouse.engine.standing import outline, run_standing
from pilothouse.engine.transitions import Transitions
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx
from pilothouse.wire import entries

Guard = Callable[[Connection, str], object]
"""Raises a Refusal unless the definition with this id may run now: it is there, and enabled."""

Started = Callable[[Tx, Run], object]
"""Is told of a run that was created, in the transaction of its start."""


class Starts:
    """Starts runs. Packages register a guard for the kinds of runs whose definitions they own."""

    def __init__(
        self,
        runs: RunCache,
        transitions: Transitions,
        identity: Identity,
        groups: Groups,
        quotas: Quotas = DEFAULTS,
    ) -> None:
        self._quotas = quotas
        self._runs = runs
        self._transitions = transitions
        self._identity = identity
        self._groups = groups
        self._guards: dict[str, Guard] = {}
        self._watchers: dict[str, Started] = {}

    def guard(self, kind: str, guard: Guard) -> None:
        """Ask ``guard`` before each start of a run of this kind that has a definition."""
        self._guards[kind] = guard

    def tell(self, kind: str, started: Started) -> None:
        """Call ``started`` for each new run of this kind, before anything of it is decided."""
        self._watchers[kind] = started

    def check(self, tx: Tx, by: Principal, run: Run) -> None:
        """Whether ``by`` may start this run now, or open it again.

        Raises ``AUTH_INSUFFICIENT_PERMISSIONS``, :class:`QuotaExceeded`, and what the guard raises.
        """
        require(by, "run.trigger", run.project)
        guard = self._guards.get(run.kind)
        if guard is not None and run.pipeline_id:
            guard(tx.conn, run.pipeline_id)
        most = self._quotas.runs
        unfinished = count_unfinished(tx.conn, run.project, most)
        check_quota("unfinished runs of this project", unfinished, most, "runs")

    def check_again(self, tx: Tx, by: Principal, run: Run) -> None:
        """As :meth:`check`, for an ended run that is opened again now; it holds its concurrency group from now on.

        Raises also :class:`NotRetryable` while another run holds that.
        """
        self.check(tx, by, run)
        if run.graph.concurrency:
            self._groups.reenter_run(tx, run)

    def begin(self, tx: Tx, by: Principal, run: Run, action: str, graph: str) -> Run:
        """Store a new run and queue its first steps; ``graph``: its JSON text. Raises as :meth:`check`."""
        self.check(tx, by, run)
        group = self._groups.check_run(tx, run) if run.graph.concurrency else ""
        run.recount()
        store.insert_run(tx.conn, run, graph)
        run_counts.begun(tx.conn, run)
        self._runs.adopt(tx, run)
        if (started := self._watchers.get(run.kind)) is not None:
            started(tx, run)
        self._transitions.records.append(
            tx,
            run,
            entries.RUN_CREATED,
            jobs=outline(run),
            trigger=run.trigger,
            by=by.name,
            by_id=by.id,
            rerun_of=run.rerun_of,
            **run_standing(run),
        )
        self._identity.audit(tx, by, action, run.id, {"name": run.name, "rerun_of": run.rerun_of})
        if group:
            self._groups.enter_run(tx, run, group)
        if run.parent_gate:  # others may follow in this transaction
            self._transitions.spend(tx, run.graph.size)
        self._transitions.settle(tx, run)
        return run
