"""``/api/v1/gates`` (decisions.md, native routes)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Idem, allow, json_response
from pilothouse.engine.errors import GateNotFound
from pilothouse.engine.gates import hold, store
from pilothouse.engine.gates.counting import waits_for
from pilothouse.engine.gates.model import HOLD, Gate
from pilothouse.engine.gates.service import Gates, check_comment, decidable_by
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.rest import gates as shown
from pilothouse.wire.rest.gates import DecideGate
from pilothouse.wire.times import rfc3339_ms

router = APIRouter(prefix="/api/v1/gates", tags=["gates"])

GateService = Annotated[Gates, provided(Gates)]


@router.get("", dependencies=[allow("run.read")], summary="List gates", responses=answer(shown.GateList))
async def list_gates(
    caller: Caller,
    database: Database,
    paging: Paged,
    run: Annotated[str, Query(max_length=64, description="id of a run")] = "",
    status: Annotated[Literal["", "open", "approved", "rejected", "closed"], Query()] = "",
    kind: Annotated[str, Query(max_length=64, description="kind of gate: `hold` waits for approvals")] = "",
) -> Response:
    """Gates of the caller's projects, most recently opened first. ``decidable``: the caller may approve or reject."""
    projects = caller.among
    found, total = await database.read(
        lambda conn: store.list_gates(
            conn,
            run=run,
            status=status,
            kind=kind,
            projects=projects,
            page=paging.page,
            limit=paging.limit,
        )
    )
    views = [gate_view(gate, decidable=_decidable(gate, caller)) for gate in found]
    return json_response(paginated("gates", views, paging, total))


@router.get(
    "/{gate_id}",
    dependencies=[allow("run.read")],
    summary="Show a gate",
    responses=answer(shown.Gate) | errors("GATE_NOT_FOUND"),
)
async def get_gate(gate_id: str, caller: Caller, database: Database) -> Response:
    """Errors: ``GATE_NOT_FOUND``."""
    gate = await database.read(lambda conn: store.find_gate(conn, gate_id))
    if gate is None or not caller.sees(entries.project_scope(gate.project)):
        raise GateNotFound(gate_id)
    require(caller, "run.read", gate.project)
    return json_response(gate_view(gate, decidable=_decidable(gate, caller)))


@router.post(
    "/{gate_id}",
    dependencies=[allow("gate.decide")],
    summary="Approve or reject",
    responses=answer(shown.Gate, example=shown.APPROVED) | errors("GATE_NOT_FOUND", "GATE_CLOSED"),
)
async def decide_gate(gate_id: str, idem: Idem, gates: GateService, body: DecideGate) -> Response:
    """Approve or reject a gate; for its approvers (roles or users) and admins. Each user counts once.

    It stays open until it has the approvals that it needs. They are counted with the rights that those who gave them
    have then. One rejection ends it. Errors: ``GATE_NOT_FOUND``, ``GATE_CLOSED``, ``AUTH_INSUFFICIENT_PERMISSIONS``.
    """
    comment = check_comment(body.comment)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        return gate_view(gates.decide(tx, by, gate_id, body.decision, comment), decidable=False)

    return await idem(use_case, 200, permit=lambda conn, by: decidable_by(conn, by, gate_id))


def gate_view(gate: Gate, *, decidable: bool) -> dict[str, Any]:
    """The JSON form of a gate."""
    return {
        "id": gate.id,
        "run_id": gate.run_id,
        "run_name": gate.run_name,
        "job": gate.job,
        "step": gate.step,
        "project": gate.project,
        "kind": gate.kind,
        "status": gate.status,
        "message": gate.message,
        "roles": gate.roles,
        "users": gate.users,
        "count": gate.needed,
        "approvals": [{"by": one.user, "at": rfc3339_ms(one.at)} for one in gate.approvals],
        "waits_for": waits_for(gate) if gate.status == "open" else "",
        "child_run": gate.child_run or None,
        "decidable": decidable,
        "opened_at": rfc3339_ms(gate.opened_at),
        "deadline": rfc3339_ms(gate.deadline) if gate.deadline else None,
        "closed_at": rfc3339_ms(gate.closed_at) if gate.closed_at else None,
        "decided_by": gate.decided_by or None,
        "comment": gate.comment,
    }


def _decidable(gate: Gate, caller: Caller) -> bool:
    return gate.status == "open" and gate.kind == HOLD and hold.may_decide(gate, caller)
