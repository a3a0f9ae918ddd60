"""The audit trail: who did what, to what, when and from where (design.md, invariant 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.identity import records
from pilothouse.identity.model import AuditRecord
from pilothouse.journal import Journal
from pilothouse.storage import Tx

MAX_DETAIL = 8 << 10
"""Bytes of the details of one record, as JSON."""

MAX_TEXT = 500
MAX_ITEMS = 50


class Trail:
    """Writes the audit trail in the transaction of the change."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def audit(
        self, tx: Tx, by: Principal, action: str, target: str, detail: dict[str, Any] | None = None
    ) -> None:
        """Record that ``by`` did ``action`` (``run.triggered``) on ``target`` (``run/<id>``).

        ``detail`` must never contain a secret; it is visible to everyone with ``audit.read``. Texts and lists that
        are too long are cut (:func:`bounded`).
        """
        record = AuditRecord(
            id=str(uuid7()),
            at=tx.now,
            actor_kind=by.kind,
            actor_id=by.id,
            actor=by.name,
            action=action,
            target=target[:MAX_TEXT],
            address=by.address,
            request_id=by.request_id,
            detail=bounded(detail or {}),
            token_id=by.token_id,
        )
        records.insert_audit(tx.conn, record)

    def record(
        self,
        tx: Tx,
        by: Principal,
        type: str,
        stream: str,
        body: dict[str, Any],
        *,
        scope: str = "admin",
    ) -> None:
        """Record a change: an entry on ``stream`` with this ``scope``, and a line of the audit trail."""
        self._journal.append(tx, stream, type, scope, {**body, "by": by.name})
        self.audit(tx, by, type, stream, body)

    def list(
        self,
        conn: Connection,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: int | None = None,
        page: int = 1,
        limit: int = 20,
    ) -> tuple[list[AuditRecord], int]:
        """A page, newest first, and the total.

        ``action`` and ``target`` can end in ``*``; ``since`` is in ms.
        """
        return records.list_audit(
            conn,
            actor=actor,
            action=action,
            target=target,
            since=since,
            offset=(page - 1) * limit,
            limit=limit,
        )


def bounded(detail: dict[str, Any]) -> dict[str, Any]:
    """The details of a record, with long texts and lists cut; only their keys if they are still too large."""
    cut = {str(key)[:MAX_TEXT]: _cut(value) for key, value in list(detail.items())[:MAX_ITEMS]}
    if len(orjson.dumps(cut, default=str)) <= MAX_DETAIL:
        return cut
    return {"omitted": [key[:100] for key in cut]}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
    if isinstance(value, Mapping):
        return {str(key)[:MAX_TEXT]: _cut(inner) for key, inner in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple):
        return [_cut(inner) for inner in value[:MAX_ITEMS]]
    return value
