"""The audit trail."""

from __future__ import annotations

from typing import Any, ClassVar

from pilothouse.wire.rest.base import Answer, Pagination, Time


class Actor(Answer):
    """Who did it; ``kind``: ``user``, ``agent`` or ``system``."""

    kind: str
    id: str
    name: str


class AuditRecord(Answer):
    """One change: who, what, to what, when, from where; ``detail`` depends on ``action`` and has no secrets."""

    id: str
    at: Time
    actor: Actor
    token_id: str | None
    action: str
    target: str
    address: str
    request_id: str
    detail: dict[str, Any]

    example: ClassVar[Any] = {
        "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718d",
        "at": "2026-01-31T11:10:00Z",
        "actor": {"kind": "user", "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a", "name": "admin"},
        "token_id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718b",
        "action": "user.created",
        "target": "user/01980f3e-5c2a-7c1e-9b7a-0d4e5f60718b",
        "address": "192.0.2.7",
        "request_id": "req-abc123",
        "detail": {"username": "john.doe", "role": "user"},
    }


class AuditTrail(Answer):
    """A page of records, newest first."""

    entries: list[AuditRecord]
    pagination: Pagination

    example: ClassVar[Any] = {"entries": [AuditRecord.example], "pagination": Pagination.example}
