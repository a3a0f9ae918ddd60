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


class GateApproval(Answer):
    """An approval that counted at the last decision on the gate."""

    by: str
    at: Time

    example: ClassVar[Any] = {"by": "bob", "at": "2026-01-10T14:25:00.000Z"}


class Gate(Answer):
    """A gate; ``decidable``: the caller may approve or reject it; ``roles`` and ``users``: who may; ``count``: the
    number of approvals that it needs, each of another user; ``waits_for``: what it waits for while it is open;
    ``run_name``, ``job`` and ``step`` are empty for gates of older releases."""

    id: Id
    run_id: Id
    run_name: str
    job: str
    step: str
    project: Id
    kind: str
    status: Literal["open", "approved", "rejected", "closed"]
    message: str
    roles: list[str]
    users: list[str]
    count: int
    approvals: list[GateApproval]
    waits_for: str
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
        "run_name": "shop",
        "job": "deploy",
        "step": "ask",
        "project": "019a7b1e-0000-7000-8000-000000000001",
        "kind": "hold",
        "status": "open",
        "message": "deploy to production?",
        "roles": ["admin", "operator"],
        "users": [],
        "count": 2,
        "approvals": [GateApproval.example],
        "waits_for": "waits for 1 of 2 approvals: needs role admin or role operator: deploy to production?",
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
    "approvals": [GateApproval.example, {"by": "alice", "at": "2026-01-10T14:30:00.000Z"}],
    "waits_for": "",
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
