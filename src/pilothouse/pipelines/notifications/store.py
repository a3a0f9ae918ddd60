"""The tables of notifications, and their SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from pilothouse.journal.store import entries, next_offset
from pilothouse.pipelines.notifications.model import (
    KEPT,
    Busy,
    Delivery,
    DeliveryStatus,
    Ended,
    Wanted,
)
from pilothouse.storage import metadata
from pilothouse.storage.counting import count_ahead
from pilothouse.wire.entries import JOB_COMPLETED, RUN_COMPLETED

#: What a run asks for, from its start on: a JSON array.
run_notifications = Table(
    "run_notifications",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("wanted", Text, nullable=False),
)

deliveries = Table(
    "notification_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("project", Text, nullable=False),
    Column("pipeline_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("plugin", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("claimed_by", Text, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("code", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("response", Text, nullable=False),
    Index("notification_deliveries_once", "run_id", "offset", "number", unique=True),
    Index("notification_deliveries_by_pipeline", "pipeline_id", "id"),
    Index("notification_deliveries_due", "next_at", sqlite_where=text("next_at > 0")),
)

#: How far the journal has been read: one row.
notification_position = Table(
    "notification_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, nullable=False),
)

MAX_SCANNED = 5000
"""Offsets of the journal that are looked at in one query."""

PAGE = 200
"""Entries that are read at once."""


# -- what runs ask for ----------------------------------------------------------------------------------


def keep_wanted(conn: Connection, run_id: str, wanted: Iterable[Wanted]) -> None:
    """Store what a new run asks for."""
    listed = orjson.dumps([asdict(one) for one in wanted]).decode()
    conn.execute(insert(run_notifications).values(run_id=run_id, wanted=listed))


def wanted_by(conn: Connection, run_ids: Collection[str]) -> dict[str, list[Wanted]]:
    """What these runs ask for, by run; without those that ask for nothing."""
    query = select(run_notifications).where(run_notifications.c.run_id.in_(run_ids))
    return {
        row.run_id: [Wanted(**one) for one in orjson.loads(row.wanted)]
        for row in (conn.execute(query) if run_ids else ())
    }


# -- the journal ----------------------------------------------------------------------------------------


def stored_position(conn: Connection) -> int:
    """The next offset to read: as stored, else the first."""
    stored = conn.execute(select(notification_position.c.offset)).scalar_one_or_none()
    return min(int(stored or 1), next_offset(conn))


def store_position(conn: Connection, offset: int) -> None:
    """Remember how far the journal has been read; never backwards."""
    ahead = notification_position.c.offset < offset
    if conn.execute(update(notification_position).where(ahead).values(offset=offset)).rowcount:
        return
    if conn.execute(select(notification_position.c.id)).first() is None:
        conn.execute(insert(notification_position).values(id=1, offset=offset))


def ended_from(conn: Connection, start: int) -> tuple[list[Ended], int]:
    """Ends of runs and jobs from an offset on, and the offset from which to read on.

    Where no run has asked for anything, the journal need not be read: what is committed before the end that is read
    first cannot belong to a run that is stored later.
    """
    end = min(start + MAX_SCANNED, last := next_offset(conn))
    if conn.execute(select(run_notifications.c.run_id).limit(1)).first() is None:
        return [], max(last, start)
    e = entries.c
    wanted = (e.offset >= start, e.offset < end, e.type.in_((RUN_COMPLETED, JOB_COMPLETED)))
    query = select(e.offset, e.at, e.type, e.subject, e.data).where(*wanted).order_by(e.offset).limit(PAGE)
    rows = list(conn.execute(query))
    return [_ended(row) for row in rows], (rows[-1].offset + 1 if len(rows) == PAGE else max(end, start))


def _ended(row: Any) -> Ended:
    body = orjson.loads(row.data)
    return Ended(
        offset=row.offset,
        at=row.at,
        run_id=body["run_id"],
        project=body["project"],
        pipeline_id=body["pipeline_id"],
        pipeline=body["name"],
        status=body["status"],
        reason=body.get("reason", ""),
        duration=body.get("duration", 0),
        job=body.get("job", ""),
        job_id=body.get("job_id", ""),
    )


# -- deliveries -----------------------------------------------------------------------------------------


def _delivery(row: Row[Any]) -> Delivery:
    values = dict(row._mapping)
    return Delivery(
        **{**values, "params": orjson.loads(values["params"]), "status": DeliveryStatus(values["status"])}
    )


def add_delivery(conn: Connection, one: Delivery) -> bool:
    """Store a new delivery; ``False`` if that of the same notification and entry is there already."""
    d = deliveries.c
    same = (d.run_id == one.run_id, d.offset == one.offset, d.number == one.number)
    if conn.execute(select(d.id).where(*same)).first() is not None:
        return False
    values = {**asdict(one), "params": orjson.dumps(dict(one.params)).decode()}
    conn.execute(insert(deliveries).values(**values))
    return True


def find_delivery(conn: Connection, delivery_id: str) -> Delivery | None:
    """The delivery with this id."""
    row = conn.execute(select(deliveries).where(deliveries.c.id == delivery_id)).first()
    return _delivery(row) if row else None


def deliveries_of(
    conn: Connection, pipeline_id: str, page: int, limit: int, run_id: str = ""
) -> tuple[list[Delivery], int]:
    """A page of a pipeline's deliveries, newest first, and how many there are (``count_ahead``)."""
    d = deliveries.c
    wanted = [d.pipeline_id == pipeline_id, *((d.run_id == run_id,) if run_id else ())]
    offset = (page - 1) * limit
    total = count_ahead(conn, select(d.id).where(*wanted), offset)
    query = select(deliveries).where(*wanted).order_by(d.id.desc()).limit(limit).offset(offset)
    return [_delivery(row) for row in conn.execute(query)], total


def count_waiting(conn: Connection, pipeline_id: str, most: int) -> int:
    """How many deliveries of a pipeline wait; ``most`` if there are more."""
    d = deliveries.c
    some = select(d.id).where(d.pipeline_id == pipeline_id, d.next_at > 0).limit(most).subquery()
    return int(conn.execute(select(func.count()).select_from(some)).scalar_one())


def due_deliveries(conn: Connection, now: int, busy: Busy, limit: int) -> list[Delivery]:
    """Deliveries whose next attempt is due, the oldest first, without those of what is ``busy``."""
    d = deliveries.c
    due = (
        d.next_at > 0,
        d.next_at <= now,
        d.plugin.not_in(busy.plugins),
        (d.plugin + " " + d.project).not_in(busy.shares),
        d.queue.not_in(busy.queues),
    )
    return [
        _delivery(row)
        for row in conn.execute(select(deliveries).where(*due).order_by(d.next_at, d.id).limit(limit))
    ]


def claim(conn: Connection, delivery_id: str, attempts: int, server: str, now: int, until: int) -> bool:
    """Have a delivery that is due for this server alone until that time; ``False`` if another one was faster."""
    d = deliveries.c
    free = (d.id == delivery_id, d.attempts == attempts, d.next_at > 0, d.next_at <= now)
    taken = {"attempts": attempts + 1, "claimed_by": server, "next_at": until, "last_at": now}
    return conn.execute(update(deliveries).where(*free).values(**taken)).rowcount == 1


def release(conn: Connection, now: int) -> None:
    """Free what servers that are gone were sending."""
    d = deliveries.c
    held = (d.next_at > 0, d.claimed_by != "")
    conn.execute(update(deliveries).where(*held).values(claimed_by="", next_at=now))


def settle(conn: Connection, delivery_id: str, attempts: int, server: str, **changes: Any) -> bool:
    """Store what became of an attempt; ``False`` if the claim was lost, and another server has it now."""
    d = deliveries.c
    ours = (d.id == delivery_id, d.attempts == attempts, d.claimed_by == server)
    return conn.execute(update(deliveries).where(*ours).values(claimed_by="", **changes)).rowcount == 1


def restart(conn: Connection, delivery_id: str, now: int) -> None:
    """Deliver again from the first attempt on."""
    fresh = {
        "status": DeliveryStatus.WAITING.value,
        "attempts": 0,
        "since": now,
        "next_at": now,
        "ended_at": 0,
    }
    fresh |= {"claimed_by": "", "reason": "", "response": "", "code": 0}
    conn.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(**fresh))


def forget_old(conn: Connection, pipeline_id: str) -> None:
    """Delete the deliveries of a pipeline that have ended, except the newest :data:`KEPT` of all."""
    d = deliveries.c
    newest = select(d.id).where(d.pipeline_id == pipeline_id).order_by(d.id.desc()).offset(KEPT).limit(1)
    last = conn.execute(newest).scalar_one_or_none()
    if last is not None:
        old = (d.pipeline_id == pipeline_id, d.id <= last, d.next_at == 0)
        conn.execute(delete(deliveries).where(*old))


def delete_of_pipeline(conn: Connection, pipeline_id: str) -> None:
    """The pipeline is deleted."""
    conn.execute(delete(deliveries).where(deliveries.c.pipeline_id == pipeline_id))
