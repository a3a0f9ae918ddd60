"""``run``: a gate that starts another run and waits until it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.engine import store
from pilothouse.engine.gates.model import Gate, GateInvalid, Outcome
from pilothouse.engine.gates.parent import Parent
from pilothouse.engine.gates.store import count_runs_below, find_gate
from pilothouse.engine.model import Run, Status
from pilothouse.engine.runs import RunCache
from pilothouse.engine.transitions import Transitions
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx
from pilothouse.wire.outputs import MAX_BYTES

MAX_DEPTH = 8
"""So many runs may be above another."""

MAX_BELOW = 1000
"""So many runs a run may start, directly or not."""

Starter = Callable[[Tx, Principal, Parent, Mapping[str, Any]], Run]
"""Starts the run that the arguments of a gate ask for, with the rights of the principal, in the parent's project."""


class ChildRun:
    """A child run has the permissions of the user who started its parent, and is cancelled with it."""

    def __init__(self, runs: RunCache, transitions: Transitions, identity: Identity) -> None:
        self._runs = runs
        self._transitions = transitions
        self._identity = identity
        self._starters: dict[str, Starter] = {}

    def start_by(self, key: str, starter: Starter) -> None:
        """Use ``starter`` for gates with the argument ``key``, such as ``pipeline``."""
        self._starters[key] = starter

    def opened(self, tx: Tx, run: Run, gate: Gate, args: Mapping[str, Any]) -> Outcome | None:
        """Start the child."""
        starter = next((self._starters[key] for key in args if key in self._starters), None)
        if starter is None:
            raise GateInvalid(f"it has to name one of: {', '.join(sorted(self._starters))}")
        if run.depth >= MAX_DEPTH:
            raise GateInvalid(f"runs nest at most {MAX_DEPTH} deep")
        by = self._identity.principal_of(tx.conn, run.triggered_by_id)
        if by is None or not by.may("run.trigger", run.project):
            raise GateInvalid(f"{run.triggered_by}, who started this run, may not start another")
        above = self._above(tx, run)
        if count_runs_below(tx.conn, above[-1].id, MAX_BELOW) >= MAX_BELOW:
            raise GateInvalid(
                f"run {above[-1].id} has started {MAX_BELOW} runs, directly or not: the most allowed"
            )
        definitions = frozenset(row.pipeline_id for row in above if row.pipeline_id)
        parent = Parent(gate.id, run.depth + 1, run.project, definitions)
        try:
            child = starter(tx, by, parent, args)
        except Refusal as error:
            raise GateInvalid(error.message) from error
        gate.child_run, gate.message = child.id, f"waits for run {child.id}"
        return outcome_of(child) if child.status.over else None

    def _above(self, tx: Tx, run: Run) -> list[Any]:
        """The rows of the run and of those that wait for it, directly or not; the last one waits in no gate."""
        rows: list[Any] = [store.run_row(tx.conn, run.id)]
        while (gate := find_gate(tx.conn, rows[-1].parent_gate)) is not None:
            row = store.run_row(tx.conn, gate.run_id)
            if row is None:
                break
            rows.append(row)
        return rows

    def due(self, tx: Tx, run: Run, gate: Gate) -> Outcome:
        """The step's timeout has passed."""
        return Outcome(Status.TIMED_OUT, f"run {gate.child_run} took longer than the step's timeout")

    def closed(self, tx: Tx, run: Run, gate: Gate) -> None:
        """Cancel an active child: its parent was cancelled, or no longer waits for it."""
        if not gate.child_run:
            return
        child = self._runs.get(tx, gate.child_run)
        if child.status.over or child.cancelling:
            return
        why = f"run {run.id} no longer waits for it"
        self._transitions.cancel(tx, child, why, force=False, by=run.triggered_by, by_id=run.triggered_by_id)
        self._transitions.settle(tx, child)


def outcome_of(child: Run) -> Outcome:
    """The outcome of the gate when its child run has ended. Outputs too large for a step are left out."""
    outputs = {"run_id": child.id, "status": child.status.value, "outputs": child.outputs()}
    if len(orjson.dumps(outputs)) > MAX_BYTES:
        outputs["outputs"] = {}
    if child.status is Status.SUCCEEDED:
        return Outcome(Status.SUCCEEDED, "", outputs)
    reason = f"run {child.id} {child.status.value}" + (f": {child.reason}" if child.reason else "")
    return Outcome(Status.FAILED, reason, outputs)
