"""The audit trail: who did what, to what, when and from where (design.md, invariant 9)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.identity import records
from pilothouse.identity.model import AuditRecord
from pilothouse.journal import Journal
from pilothouse.storage import Tx


class Trail:
    """Writes the audit trail in the transaction of the change."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def audit(
        self, tx: Tx, by: Principal, action: str, target: str, detail: dict[str, Any] | None = None
    ) -> None:
        """Record that ``by`` did ``action`` (``run.triggered``) on ``target`` (``run/<id>``).

        ``detail`` must never contain a secret; it is visible to everyone with ``audit.read``.
        """
        record = AuditRecord(
            id=str(uuid7()),
            at=tx.now,
            actor_kind=by.kind,
            actor_id=by.id,
            actor=by.name,
            action=action,
            target=target,
            address=by.address,
            request_id=by.request_id,
            detail=detail or {},
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
