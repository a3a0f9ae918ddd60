"""SQL of the audit trail and of the answers to idempotent requests."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, or_, select, update

from pilothouse.identity.model import AuditRecord
from pilothouse.identity.tables import audit_records, idempotency_keys

# -- the audit trail ------------------------------------------------------------------------------------


def insert_audit(conn: Connection, record: AuditRecord) -> None:
    """One line of the trail; nothing ever changes or deletes one."""
    conn.execute(
        insert(audit_records).values(
            id=record.id,
            at=record.at,
            actor_kind=record.actor_kind,
            actor_id=record.actor_id,
            actor=record.actor,
            action=record.action,
            target=record.target,
            address=record.address,
            request_id=record.request_id,
            detail=orjson.dumps(record.detail).decode(),
        )
    )


def list_audit(
    conn: Connection,
    *,
    actor: str | None,
    action: str | None,
    target: str | None,
    since: int | None,
    offset: int,
    limit: int,
) -> tuple[list[AuditRecord], int]:
    """A page of the trail, newest first, and how many lines match.

    ``actor`` is a name or id; ``action`` and ``target`` match exactly, or by prefix when they end in ``*``.
    """
    chosen = select(audit_records)
    if actor is not None:
        chosen = chosen.where(or_(audit_records.c.actor == actor, audit_records.c.actor_id == actor))
    if action is not None:
        chosen = _matching(chosen, audit_records.c.action, action)
    if target is not None:
        chosen = _matching(chosen, audit_records.c.target, target)
    if since is not None:
        chosen = chosen.where(audit_records.c.at >= since)
    total = conn.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()
    page = chosen.order_by(audit_records.c.at.desc(), audit_records.c.id.desc()).offset(offset).limit(limit)
    return [_record(row) for row in conn.execute(page)], total


def _matching(chosen: Select[Any], column: Any, pattern: str) -> Select[Any]:
    if pattern.endswith("*"):
        return chosen.where(column.startswith(pattern[:-1], autoescape=True))
    return chosen.where(column == pattern)


def _record(row: Row[Any]) -> AuditRecord:
    return AuditRecord(
        row.id,
        row.at,
        row.actor_kind,
        row.actor_id,
        row.actor,
        row.action,
        row.target,
        row.address,
        row.request_id,
        orjson.loads(row.detail),
    )


# -- idempotent requests --------------------------------------------------------------------------------


def claim_key(conn: Connection, caller: str, route: str, key: str, request: str, now: int) -> None:
    """Take the key for this transaction; a concurrent one with the same key waits, then finds it taken."""
    conn.execute(
        insert(idempotency_keys).values(
            caller=caller, route=route, key=key, request=request, status=0, answer=b"", created_at=now
        )
    )


def record_answer(conn: Connection, caller: str, route: str, key: str, status: int, answer: bytes) -> None:
    """Keep the (sealed) answer under the key claimed before."""
    conn.execute(
        update(idempotency_keys).where(_key(caller, route, key)).values(status=status, answer=answer)
    )


def find_answer(conn: Connection, caller: str, route: str, key: str) -> tuple[str, int, bytes] | None:
    """The request's digest, the status and the sealed answer."""
    wanted = select(idempotency_keys.c.request, idempotency_keys.c.status, idempotency_keys.c.answer)
    row = conn.execute(wanted.where(_key(caller, route, key))).first()
    return None if row is None else (row.request, row.status, row.answer)


def purge_keys(conn: Connection, before: int) -> None:
    """Forget keys first used before this time."""
    conn.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < before))


def _key(caller: str, route: str, key: str) -> Any:
    return and_(
        idempotency_keys.c.caller == caller, idempotency_keys.c.route == route, idempotency_keys.c.key == key
    )
