"""``/api/v1/gates`` (decisions.md, native routes)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Role
from pilothouse.edge.bodies import Body
from pilothouse.edge.openapi import example
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Idem, allow, json_response
from pilothouse.engine.errors import GateNotFound
from pilothouse.engine.gates import hold, store
from pilothouse.engine.gates.model import HOLD, MAX_COMMENT, Gate
from pilothouse.engine.gates.service import Gates, check_comment, decidable_by
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.times import rfc3339_ms

router = APIRouter(prefix="/api/v1/gates", tags=["gates"])

GateService = Annotated[Gates, provided(Gates)]

_GATE = {
    "id": "019a7b1e-7000-7a00-8a51-0c4b8f1f2a10",
    "run_id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
    "project": "019a7b1e-0000-7000-8000-000000000001",
    "kind": "hold",
    "status": "open",
    "message": "deploy to production?",
    "roles": ["admin", "operator"],
    "users": [],
    "child_run": None,
    "decidable": True,
    "opened_at": "2026-01-10T14:23:45.000Z",
    "deadline": None,
    "closed_at": None,
    "decided_by": None,
    "comment": "",
}
_GATES = {"gates": [_GATE], "pagination": {"page": 1, "limit": 20, "total": 1, "total_pages": 1}}
_APPROVED = {
    **_GATE,
    "status": "approved",
    "decidable": False,
    "closed_at": "2026-01-10T14:30:00.000Z",
    "decided_by": "alice",
    "comment": "checked the canary",
}


class DecideGate(Body):
    """Approve or reject, and why."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"decision": "approve", "comment": "checked the canary"}}
    )
    decision: Literal["approve", "reject"]
    comment: str = Field("", max_length=MAX_COMMENT)


@router.get("", dependencies=[allow("run.read")], summary="List gates", responses=example(_GATES))
async def list_gates(
    caller: Caller,
    database: Database,
    paging: Paged,
    run: Annotated[str, Query(max_length=64, description="id of a run")] = "",
    status: Annotated[Literal["", "open", "approved", "rejected", "closed"], Query()] = "",
) -> Response:
    """Gates of the caller's projects, most recently opened first. ``decidable``: the caller may approve or reject."""
    projects = None if caller.role in (Role.ADMIN, Role.OPERATOR) else caller.projects
    found, total = await database.read(
        lambda conn: store.list_gates(
            conn, run=run, status=status, projects=projects, page=paging.page, limit=paging.limit
        )
    )
    shown = [gate_view(gate, decidable=_decidable(gate, caller)) for gate in found]
    return json_response(paginated("gates", shown, paging, total))


@router.get("/{gate_id}", dependencies=[allow("run.read")], summary="Show a gate", responses=example(_GATE))
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
    responses=example(_APPROVED),
)
async def decide_gate(
    gate_id: str, caller: Caller, idem: Idem, gates: GateService, body: DecideGate
) -> Response:
    """Approve or reject a gate; for its approvers (roles or users) and admins.

    Errors: ``GATE_NOT_FOUND``, ``INVALID_STATE_TRANSITION`` (it is not open), ``AUTH_INSUFFICIENT_PERMISSIONS``.
    """
    comment = check_comment(body.comment)

    def use_case(tx: Tx) -> dict[str, Any]:
        return gate_view(gates.decide(tx, caller, gate_id, body.decision, comment), decidable=False)

    return await idem(use_case, 200, permit=lambda conn: decidable_by(conn, caller, gate_id))


def gate_view(gate: Gate, *, decidable: bool) -> dict[str, Any]:
    """The JSON form of a gate."""
    return {
        "id": gate.id,
        "run_id": gate.run_id,
        "project": gate.project,
        "kind": gate.kind,
        "status": gate.status,
        "message": gate.message,
        "roles": gate.roles,
        "users": gate.users,
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
