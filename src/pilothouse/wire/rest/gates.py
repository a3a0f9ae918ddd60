"""Gates of runs (decisions.md, native routes)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.bounds import MAX_COMMENT
from pilothouse.wire.rest.base import Answer, Id, Pagination, Time
from pilothouse.wire.rest.bodies import Body


class DecideGate(Body):
    """Approve or reject, and why."""

    decision: Literal["approve", "reject"]
    comment: str = Field("", max_length=MAX_COMMENT)

    example: ClassVar[Any] = {"decision": "approve", "comment": "checked the canary"}


class Gate(Answer):
    """A gate; ``decidable``: the caller may approve or reject it; ``roles`` and ``users``: who may."""

    id: Id
    run_id: Id
    project: Id
    kind: str
    status: Literal["open", "approved", "rejected", "closed"]
    message: str
    roles: list[str]
    users: list[str]
    child_run: Id | None
    decidable: bool
    opened_at: Time
    deadline: Time | None
    closed_at: Time | None
    decided_by: str | None
    comment: str

    example: ClassVar[Any] = {
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


APPROVED: dict[str, Any] = {
    **Gate.example,
    "status": "approved",
    "decidable": False,
    "closed_at": "2026-01-10T14:30:00.000Z",
    "decided_by": "alice",
    "comment": "checked the canary",
}


class GateList(Answer):
    """A page of gates, most recently opened first."""

    gates: list[Gate]
    pagination: Pagination

    example: ClassVar[Any] = {"gates": [Gate.example], "pagination": Pagination.example}
