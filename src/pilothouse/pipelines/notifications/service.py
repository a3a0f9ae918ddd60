"""The use cases of notifications: what a run asks for, what is due when it ends, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection

from pilothouse.access.model import Principal
from pilothouse.engine.model import Run
from pilothouse.identity.service import Identity
from pilothouse.journal import Journal
from pilothouse.pipelines.notifications import store
from pilothouse.pipelines.notifications.errors import NotificationNotFound, StillWaiting
from pilothouse.pipelines.notifications.model import (
    CLAIM,
    MAX_AGE,
    MAX_REASON,
    MAX_RESPONSE,
    MAX_WAITING,
    Delivery,
    DeliveryStatus,
    Outcome,
    Retries,
    Wanted,
    one_line,
)
from pilothouse.pipelines.store import pipeline
from pilothouse.storage import Tx
from pilothouse.wire import entries


class Notifications:
    """The notifications of all pipelines. Every method is a use case in one transaction.

    ``server``: the name of this server; ``wake`` is called after a commit that makes a delivery due.
    """

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        server: str,
        retries: Retries,
        wake: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._server = server
        self._retries = retries
        self._wake = wake

    def expect(self, tx: Tx, run: Run) -> None:
        """Remember what a new run asks for: what its definition says later does not count."""
        if run.graph.notify:
            wanted = [Wanted(one["job"], one["on"], one["plugin"], one["params"]) for one in run.graph.notify]
            store.keep_wanted(tx.conn, run.id, wanted)

    def decide(self, tx: Tx, found: Iterable[Delivery], read: int) -> int:
        """Store the deliveries that are due, and that the journal is read up to the offset ``read``.

        Both in one transaction, so each is stored once: those before the stored position are there already. Returns
        how many are new.
        """
        position, counts, added = store.stored_position(tx.conn), Counter[str](), 0
        for one in found:
            if one.offset < position or pipeline(tx.conn, one.pipeline_id) is None:
                continue
            if one.pipeline_id not in counts:
                counts[one.pipeline_id] = store.count_waiting(tx.conn, one.pipeline_id, MAX_WAITING)
            if counts[one.pipeline_id] >= MAX_WAITING:
                one.status, one.next_at, one.ended_at = DeliveryStatus.FAILED, 0, tx.now
                one.reason = f"{MAX_WAITING} deliveries of this pipeline wait already"
            counts[one.pipeline_id] += 1
            added += store.add_delivery(tx.conn, one)
        for pipeline_id in counts:
            store.forget_old(tx.conn, pipeline_id)
        store.store_position(tx.conn, read)
        if added:
            tx.after_commit(self._wake)
        return added

    def claim(self, tx: Tx, due: Iterable[Delivery]) -> list[Delivery]:
        """Those of these deliveries that this server has for itself now, for ``CLAIM`` ms."""
        return [
            one
            for one in due
            if store.claim(tx.conn, one.id, one.attempts, self._server, tx.now, tx.now + CLAIM)
        ]

    def release(self, tx: Tx) -> None:
        """No other server is there: free what was being sent when one died."""
        store.release(tx.conn, tx.now)

    def give_back(self, tx: Tx, delivery: Delivery) -> None:
        """This server stops in the middle of an attempt: free the delivery for others."""
        store.settle(tx.conn, delivery.id, delivery.attempts + 1, self._server, next_at=tx.now)

    def settle(self, tx: Tx, delivery: Delivery, attempts: int, outcome: Outcome) -> None:
        """Store what became of attempt number ``attempts``; without effect if another server has taken over."""
        changes: dict[str, Any] = {
            "code": outcome.code,
            "reason": one_line(outcome.reason, MAX_REASON),
            "response": outcome.response[:MAX_RESPONSE],
        }
        over = outcome.delivered or not outcome.again or attempts >= self._retries.attempts
        next_at = tx.now + self._retries.delay(attempts)
        if not over and next_at > delivery.since + MAX_AGE:
            over = True
        if not over:
            store.settle(tx.conn, delivery.id, attempts, self._server, next_at=next_at, **changes)
            return
        status = DeliveryStatus.DELIVERED if outcome.delivered else DeliveryStatus.FAILED
        changes |= {"status": status.value, "next_at": 0, "ended_at": tx.now}
        if store.settle(tx.conn, delivery.id, attempts, self._server, **changes):
            type = entries.NOTIFICATION_SENT if outcome.delivered else entries.NOTIFICATION_FAILED
            self._tell(tx, delivery, type, attempts, changes["reason"])

    def redeliver(self, tx: Tx, by: Principal, pipeline_id: str, delivery_id: str) -> Delivery:
        """Deliver again what has ended, with the same id and document.

        Raises :class:`NotificationNotFound`, :class:`StillWaiting`.
        """
        delivery = require_delivery(tx.conn, pipeline_id, delivery_id)
        if delivery.status is DeliveryStatus.WAITING:
            raise StillWaiting
        store.restart(tx.conn, delivery_id, tx.now)
        self._identity.audit(tx, by, "notification.redeliver", delivery_id, {"pipeline": pipeline_id})
        tx.after_commit(self._wake)
        return require_delivery(tx.conn, pipeline_id, delivery_id)

    def _tell(self, tx: Tx, delivery: Delivery, type: str, attempts: int, reason: str) -> None:
        body = {
            "v": entries.VERSION,
            "notification_id": delivery.id,
            "run_id": delivery.run_id,
            "pipeline_id": delivery.pipeline_id,
            "project": delivery.project,
            "event": delivery.event,
            "plugin": delivery.plugin,
            "target": delivery.target,
            "attempts": attempts,
            "reason": reason,
        }
        scope = entries.project_scope(delivery.project)
        self._journal.append(tx, f"notification/{delivery.id}", type, scope, body)


def require_delivery(conn: Connection, pipeline_id: str, delivery_id: str) -> Delivery:
    """The delivery, or :class:`NotificationNotFound`."""
    delivery = store.find_delivery(conn, delivery_id)
    if delivery is None or delivery.pipeline_id != pipeline_id:
        raise NotificationNotFound(delivery_id)
    return delivery
