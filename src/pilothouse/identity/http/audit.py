"""``/api/v1/audit``: the audit trail; admins only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from pilothouse.edge.openapi import answer
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database
from pilothouse.edge.web import allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import audit_json
from pilothouse.wire.rest.audit import AuditTrail

router = APIRouter(prefix="/api/v1/audit", tags=["audit"], dependencies=[allow("audit.read")])


@router.get(
    "",
    summary="Read the audit trail",
    responses=answer(AuditTrail),
)
async def list_audit_records(
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
