"""``/api/v1/audit``: the audit trail; admins only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from pilothouse.edge.openapi import example
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database
from pilothouse.edge.web import allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import PAGINATION_EXAMPLE, audit_json

router = APIRouter(prefix="/api/v1/audit", tags=["audit"], dependencies=[allow("audit.read")])

_RECORD = {
    "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718d",
    "at": "2026-01-31T11:10:00Z",
    "actor": {"kind": "user", "id": "01980f3e-…", "name": "admin"},
    "token_id": "01980f3e-…",
    "action": "user.created",
    "target": "user/01980f3e-…",
    "address": "192.0.2.7",
    "request_id": "req-abc123",
    "detail": {"id": "01980f3e-…", "username": "john.doe", "role": "user"},
}


@router.get(
    "",
    summary="Read the audit trail",
    responses=example({"entries": [_RECORD], "pagination": PAGINATION_EXAMPLE}),
)
async def list_audit(
    identity: IdentityService,
    database: Database,
    paging: Paged,
    actor: Annotated[str | None, Query(description="Name or id of who did it.")] = None,
    action: Annotated[str | None, Query(description="`user.created`, or by prefix: `user.*`.")] = None,
    target: Annotated[str | None, Query(description="`run/<id>`, or by prefix: `run/*`.")] = None,
    since: Annotated[datetime | None, Query(description="RFC 3339; not earlier than this.")] = None,
) -> dict[str, Any]:
    """Who did what, to what, when and from where; newest first."""
    entries, total = await database.read(
        lambda conn: identity.trail.list(
            conn,
            actor=actor,
            action=action,
            target=target,
            since=None if since is None else _ms(since),
            page=paging.page,
            limit=paging.limit,
        )
    )
    return paginated("entries", [audit_json(entry) for entry in entries], paging, total)


def _ms(time: datetime) -> int:
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
