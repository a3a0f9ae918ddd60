"""The gate service: opens, decides and closes gates. All methods run in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.engine import store as engine_store
from pilothouse.engine.contexts import context
from pilothouse.engine.errors import GateClosed, GateNotFound, NotAnApprover
from pilothouse.engine.gates import hold, store
from pilothouse.engine.gates.child import outcome_of
from pilothouse.engine.gates.counting import Count, count, waits_for
from pilothouse.engine.gates.kind import GateKind
from pilothouse.engine.gates.model import CHILD_RUN, HOLD, Approval, Gate, GateInvalid, Outcome
from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from pilothouse.engine.runs import Place, RunCache
from pilothouse.engine.transitions import Transitions
from pilothouse.expressions import ExpressionError, check_length, render_tree
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.times import rfc3339_ms

log = structlog.get_logger("engine.gates")

DECISIONS = {"approve": "approved", "reject": "rejected"}


class Gates:
    """The gates of all runs. Other packages can register kinds."""

    def __init__(self, runs: RunCache, transitions: Transitions, identity: Identity) -> None:
        self._runs = runs
        self._transitions = transitions
        self._identity = identity
        self._kinds: dict[str, GateKind] = {}

    def handle(self, name: str, kind: GateKind) -> None:
        """Register the kind of gates with this name (``graph.Step.gate``)."""
        self._kinds[name] = kind

    def decide(self, tx: Tx, caller: Principal, gate_id: str, decision: str, comment: str) -> Gate:
        """Approve or reject a gate.

        ``decision``: ``approve`` or ``reject``. The gate is settled by a rejection, and when it has the approvals
        that it needs, of users who may give them now; an approval that is repeated has no effect. Raises
        :class:`GateNotFound`, :class:`NotAnApprover`, :class:`GateClosed`.
        """
        gate = decidable_by(tx.conn, caller, gate_id)
        at = self._runs.place(tx, gate_id)
        if at is None or gate.status != "open" or at.step.current != gate_id:
            raise GateClosed(gate.status)
        if gate.deadline and tx.now >= gate.deadline:
            raise GateClosed("expired")  # it ends with the next round of the timekeeper
        if gate.kind != HOLD:
            raise GateClosed(f"not for people to decide: it is a {gate.kind}")
        lost: list[str] = []
        if decision == "approve":
            counted = self._count(tx, gate, Approval(caller.id, caller.name, tx.now, comment))
            gate.approvals, lost = counted.approvals, counted.lost
            settled = len(gate.approvals) >= gate.needed
            if not (counted.added or lost or settled):
                return gate
        else:
            settled = True
        if settled:
            gate.status, gate.comment = DECISIONS[decision], comment
            gate.decided_by, gate.decided_by_id = caller.name, caller.id
        store.save_gate(tx.conn, gate)
        self._record(tx, caller, at, gate, decision, comment, lost)
        if settled:
            self._end(tx, at, _decided(gate, caller, tx.now))
            self._transitions.settle(tx, at.run, at.job)
        else:
            at.step.reason = waits_for(gate)
            engine_store.save_part(tx.conn, at.run.id, at.step)
        found = store.find_gate(tx.conn, gate_id)
        assert found is not None, "gates are never deleted"
        return found

    def _count(self, tx: Tx, gate: Gate, new: Approval) -> Count:
        """Whoever has approved before is asked for with the rights that they have now."""

        def may_decide(before: Approval) -> bool:
            user = self._identity.principal_of(tx.conn, before.user_id)
            return user is not None and hold.may_decide(gate, user)

        return count(gate.approvals, new, may_decide)

    def _record(
        self, tx: Tx, caller: Principal, at: Place, gate: Gate, decision: str, comment: str, lost: list[str]
    ) -> None:
        detail = {"run": gate.run_id, "comment": comment, **({"no_longer_counted": lost} if lost else {})}
        self._identity.audit(tx, caller, f"gate.{decision}", gate.id, detail)
        self._transitions.records.append(
            tx,
            at.run,
            entries.GATE_DECIDED,
            at.job,
            at.step,
            at.attempt,
            decision=decision,
            by=caller.name,
            by_id=caller.id,
            comment=comment,
            needed=gate.needed,
            approved_by=[one.user for one in gate.approvals],
            no_longer_counted=lost,
            waits_for=waits_for(gate) if gate.status == "open" else "",
        )

    def settle(self, tx: Tx, gate_id: str, outcome: Outcome) -> bool:
        """Settle an open gate of a kind that another package handles; ``False`` if it is not open (any longer)."""
        gate, at = store.find_gate(tx.conn, gate_id), self._runs.place(tx, gate_id)
        if gate is None or at is None or gate.status != "open" or at.step.current != gate_id:
            return False
        self._end(tx, at, outcome)
        self._transitions.settle(tx, at.run, at.job)
        return True

    # -- GateHandler ------------------------------------------------------------------------------------

    def opened(self, tx: Tx, run: Run, job: Job, step: Step, attempt: Attempt) -> None:
        """Store the gate and initialize it by its kind."""
        spec = job.step_spec(step)
        gate = Gate(attempt.id, run.id, run.project, spec.gate, opened_at=tx.now)
        gate.run_name, gate.job, gate.step = run.name, job.name, step.name
        store.insert_gate(tx.conn, gate)
        try:
            outcome = self._kind(gate).opened(tx, run, gate, _arguments(run, job, step))
        except (GateInvalid, ExpressionError) as error:
            outcome = Outcome(Status.FAILED, _storable(str(error)))
        gate.message, gate.users = _storable(gate.message), [*map(_storable, gate.users)]
        limit = tx.now + round(spec.timeout * 1000) if spec.timeout else 0
        gate.deadline = min((at for at in (gate.deadline, limit) if at), default=0)
        step.deadline, step.reason = gate.deadline, waits_for(gate)
        store.save_gate(tx.conn, gate)
        if outcome is None:
            engine_store.save_part(tx.conn, run.id, step)
        else:
            self._end(tx, Place(run, job, step, attempt), outcome)

    def due(self, tx: Tx, run: Run, job: Job, step: Step) -> None:
        """The gate's deadline has passed: that of its kind, or the step's timeout."""
        at, gate = self._runs.place(tx, step.current), store.find_gate(tx.conn, step.current)
        assert at is not None, "an open gate has a step run"
        assert gate is not None, "an open gate is stored"
        timeout = job.step_spec(step).timeout
        known = gate.kind in (HOLD, CHILD_RUN)  # these have no other deadline, and say more of it
        if timeout and tx.now >= gate.opened_at + round(timeout * 1000) and not known:
            self._end(tx, at, Outcome(Status.TIMED_OUT, "the gate was not passed within the step's timeout"))
        else:
            self._end(tx, at, self._kind(gate).due(tx, run, gate))

    def closed(self, tx: Tx, run: Run, attempt: Attempt) -> None:
        """Store the end of a gate."""
        gate = store.find_gate(tx.conn, attempt.id)
        if gate is None:
            return
        gate.closed_at, gate.deadline = tx.now, 0
        if gate.status == "open":
            gate.status = "closed"
        store.save_gate(tx.conn, gate)
        self._kind(gate).closed(tx, run, gate)

    def child_ended(self, tx: Tx, child: Run) -> None:
        """Settle the gate that waits for this run."""
        gate = store.find_gate(tx.conn, child.parent_gate)
        if gate is not None and gate.child_run:  # otherwise it is just being opened
            self.settle(tx, gate.id, outcome_of(child))

    # -- internal ---------------------------------------------------------------------------------------

    def _end(self, tx: Tx, at: Place, outcome: Outcome) -> None:
        at.job.set_outputs(at.step, dict(outcome.outputs))
        self._transitions.steps.end_attempt(tx, at.run, at.job, at.step, outcome.status, error=outcome.reason)

    def _kind(self, gate: Gate) -> GateKind:
        return self._kinds.get(gate.kind) or _Unknown()


class _Unknown:
    """Used for gates whose kind is not registered: of a newer release, or of a removed module."""

    def opened(self, tx: Tx, run: Run, gate: Gate, args: Mapping[str, Any]) -> Outcome | None:
        return Outcome(Status.FAILED, f"this server knows no gate of kind {gate.kind!r}")

    def due(self, tx: Tx, run: Run, gate: Gate) -> Outcome:
        return Outcome(Status.FAILED, f"this server knows no gate of kind {gate.kind!r}")

    def closed(self, tx: Tx, run: Run, gate: Gate) -> None:
        log.warning("engine.gate_of_unknown_kind", gate=gate.id, kind=gate.kind)


def _arguments(run: Run, job: Job, step: Step) -> Mapping[str, Any]:
    given = job.step_spec(step).args
    check_length(given)
    args: Mapping[str, Any] = render_tree(given, context(run, job, step))
    return args


def decidable_by(conn: Connection, caller: Principal, gate_id: str) -> Gate:
    """The gate, if the caller is one of those who may decide it, be it open or not.

    Raises :class:`GateNotFound`, :class:`NotAnApprover`.
    """
    gate = store.find_gate(conn, gate_id)
    if gate is None or not caller.sees(entries.project_scope(gate.project)):
        raise GateNotFound(gate_id)
    if not hold.may_decide(gate, caller):
        raise NotAnApprover(gate.roles, gate.users)
    return gate


def _storable(text: str) -> str:
    """The text without what a database cannot store; arguments of gates are texts of specs and variables."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def _decided(gate: Gate, caller: Principal, now: int) -> Outcome:
    """The end of a gate that was approved or rejected; the outputs say who approved, and when."""
    approvals = [{"by": one.user, "at": rfc3339_ms(one.at), "comment": one.comment} for one in gate.approvals]
    if gate.status == "approved":
        by = ", ".join(one.user for one in gate.approvals)
        outputs = {"decision": "approve", "by": by, "comment": gate.comment}
        return Outcome(Status.SUCCEEDED, "", outputs | {"at": rfc3339_ms(now), "approvals": approvals})
    outputs = {"decision": "reject", "by": caller.name, "comment": gate.comment}
    reason = f"rejected by {caller.name}" + (f": {gate.comment}" if gate.comment else "")
    return Outcome(Status.FAILED, reason, outputs | {"at": rfc3339_ms(now), "approvals": approvals})


def check_comment(comment: str) -> str:
    """The comment, if it can be stored. Raises ``VALIDATION_FAILED``."""
    if "\x00" in comment:
        raise Refusal.of("VALIDATION_FAILED", "a comment holds no NUL characters")
    return comment
