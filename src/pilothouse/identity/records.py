"""SQL of the audit trail."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, insert, select

from pilothouse.identity.model import AuditRecord, has_form_of_id
from pilothouse.identity.tables import audit_records
from pilothouse.storage.counting import count_ahead


def insert_audit(conn: Connection, record: AuditRecord) -> None:
    """Insert a record; records are never changed or deleted."""
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
            token_id=record.token_id,
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
    """A page of records, newest first, and the number of matching records.

    ``actor`` is a name or id; ``action`` and ``target`` match exactly, or by prefix when they end in ``*``.
    """
    chosen = select(audit_records)
    if actor is not None:
        # One index answers each: a name never has the form of an id.
        column = audit_records.c.actor_id if has_form_of_id(actor) else audit_records.c.actor
        chosen = chosen.where(column == actor)
    if action is not None:
        chosen = _matching(conn, chosen, audit_records.c.action, action)
    if target is not None:
        chosen = _matching(conn, chosen, audit_records.c.target, target)
    if since is not None:
        chosen = chosen.where(audit_records.c.at >= since)
    total = count_ahead(conn, chosen, offset)
    page = chosen.order_by(audit_records.c.at.desc(), audit_records.c.id.desc()).offset(offset).limit(limit)
    return [_record(row) for row in conn.execute(page)], total


def _matching(conn: Connection, chosen: Select[Any], column: Any, pattern: str) -> Select[Any]:
    if not pattern.endswith("*"):
        return chosen.where(column == pattern)
    prefix = pattern[:-1]
    if conn.dialect.name == "sqlite" and prefix:
        # A range of the index, in the order of bytes; LIKE would look at every record.
        return chosen.where(column >= prefix, column < prefix + "\U0010ffff")
    return chosen.where(column.startswith(prefix, autoescape=True))


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
        row.token_id,
    )
