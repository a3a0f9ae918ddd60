"""The tables of triggers, and their SQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
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
from pilothouse.pipelines.spec.trigger_fields import EVENTS
from pilothouse.pipelines.triggers.model import EVENT, MAX_FIRES, Fire, RunEvent, Trigger
from pilothouse.storage import metadata
from pilothouse.storage.counting import count_ahead

triggers = Table(
    "triggers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("pipeline_id", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("by", Text, nullable=False),
    Column("by_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("fired", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("last_run", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("triggers_by_pipeline", "pipeline_id", "position"),
    Index("triggers_by_project", "project", "type"),
    Index("triggers_due", "next_at", sqlite_where=text("next_at > 0")),
)

trigger_fires = Table(
    "trigger_fires",
    metadata,
    Column("trigger_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

#: How far the journal has been read for event triggers: one row.
trigger_position = Table(
    "trigger_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, nullable=False),
)

MAX_SCANNED = 5000
"""Offsets of the journal that are looked at in one query."""


def _values(trigger: Trigger) -> dict[str, Any]:
    return {**asdict(trigger), "options": orjson.dumps(trigger.options).decode()}


def _trigger(row: Row[Any]) -> Trigger:
    values = dict(row._mapping)
    values["options"] = orjson.loads(values["options"])
    values["enabled"] = bool(values["enabled"])
    return Trigger(**values)


def insert_trigger(conn: Connection, trigger: Trigger) -> None:
    """Store a new trigger."""
    conn.execute(insert(triggers).values(**_values(trigger)))


def save_trigger(conn: Connection, trigger: Trigger) -> None:
    """Update a trigger."""
    conn.execute(update(triggers).where(triggers.c.id == trigger.id).values(**_values(trigger)))


def delete_trigger(conn: Connection, trigger_id: str) -> None:
    """Delete a trigger and its fires."""
    conn.execute(delete(trigger_fires).where(trigger_fires.c.trigger_id == trigger_id))
    conn.execute(delete(triggers).where(triggers.c.id == trigger_id))


def find_trigger(conn: Connection, trigger_id: str) -> Trigger | None:
    """The trigger with this id."""
    row = conn.execute(select(triggers).where(triggers.c.id == trigger_id)).first()
    return _trigger(row) if row else None


def triggers_of(conn: Connection, pipeline_id: str) -> list[Trigger]:
    """A pipeline's triggers, in the order of its spec."""
    query = select(triggers).where(triggers.c.pipeline_id == pipeline_id).order_by(triggers.c.position)
    return [_trigger(row) for row in conn.execute(query)]


def list_triggers(
    conn: Connection,
    *,
    projects: frozenset[str] | None,
    project: str,
    pipeline: str,
    page: int,
    limit: int,
) -> tuple[list[Trigger], int]:
    """A page of triggers, by pipeline, and how many there are (``count_ahead``); empty filters match everything."""
    conditions: list[ColumnElement[bool]] = []
    if projects is not None:
        conditions.append(triggers.c.project.in_(projects))
    if project:
        conditions.append(triggers.c.project == project)
    if pipeline:
        conditions.append(triggers.c.pipeline_id == pipeline)
    offset = (page - 1) * limit
    total = count_ahead(conn, select(triggers.c.id).where(*conditions), offset)
    query = select(triggers).where(*conditions).order_by(triggers.c.pipeline_id, triggers.c.position)
    return [_trigger(row) for row in conn.execute(query.limit(limit).offset(offset))], total


def due_triggers(conn: Connection, now: int, limit: int = 100) -> list[Trigger]:
    """Cron triggers whose next tick has come, the oldest first."""
    due = (triggers.c.next_at > 0, triggers.c.next_at <= now)
    return [
        _trigger(row)
        for row in conn.execute(select(triggers).where(*due).order_by(triggers.c.next_at).limit(limit))
    ]


def event_triggers(conn: Connection, projects: Collection[str]) -> list[Trigger]:
    """The event triggers of some projects that are enabled."""
    wanted = (triggers.c.project.in_(projects), triggers.c.type == EVENT, triggers.c.enabled)
    return [_trigger(row) for row in conn.execute(select(triggers).where(*wanted).order_by(triggers.c.id))]


def add_fire(conn: Connection, fire: Fire) -> None:
    """Store a fire; the one that is ``MAX_FIRES`` older is forgotten."""
    old = fire.number - MAX_FIRES
    gone = (trigger_fires.c.trigger_id == fire.trigger_id, trigger_fires.c.number == old)
    conn.execute(delete(trigger_fires).where(*gone))
    conn.execute(insert(trigger_fires).values(**asdict(fire)))


def fires_of(conn: Connection, trigger_id: str, limit: int = 20) -> list[Fire]:
    """The last fires of a trigger, newest first."""
    f = trigger_fires.c
    query = select(trigger_fires).where(f.trigger_id == trigger_id).order_by(f.number.desc()).limit(limit)
    return [Fire(**row._mapping) for row in conn.execute(query)]


def fire_time(conn: Connection, trigger_id: str, number: int) -> int:
    """When a trigger has fired for the ``number``-th time; 0 if that is forgotten, or not so yet."""
    f = trigger_fires.c
    query = select(f.at).where(f.trigger_id == trigger_id, f.number == number)
    return int(conn.execute(query).scalar_one_or_none() or 0)


# -- events ---------------------------------------------------------------------------------------------


def stored_position(conn: Connection) -> int:
    """The next offset to read: as stored, else where the oldest event trigger begins, else the end."""
    stored = conn.execute(select(trigger_position.c.offset)).scalar_one_or_none()
    if stored is None:
        oldest = select(func.min(triggers.c.seen)).where(triggers.c.type == EVENT)
        stored = conn.execute(oldest).scalar_one_or_none()
    return min(next_offset(conn) if stored is None else int(stored), next_offset(conn))


def store_position(conn: Connection, offset: int) -> None:
    """Remember how far the journal has been read; never backwards."""
    ahead = trigger_position.c.offset < offset
    if conn.execute(update(trigger_position).where(ahead).values(offset=offset)).rowcount:
        return
    if conn.execute(select(trigger_position.c.id)).first() is None:
        conn.execute(insert(trigger_position).values(id=1, offset=offset))


def run_events(conn: Connection, start: int, limit: int = 200) -> tuple[list[RunEvent], int]:
    """Events of runs from an offset on, and the offset from which to read on."""
    end = min(start + MAX_SCANNED, next_offset(conn))
    e = entries.c
    query = select(e.offset, e.type, e.data).where(e.offset >= start, e.offset < end, e.type.in_(EVENTS))
    rows = list(conn.execute(query.order_by(e.offset).limit(limit)))
    found = [_event(row) for row in rows]
    return found, (rows[-1].offset + 1 if len(rows) == limit else max(end, start))


def _event(row: Any) -> RunEvent:
    body = orjson.loads(row.data)
    return RunEvent(
        offset=row.offset,
        type=row.type,
        run_id=body["run_id"],
        project=body["project"],
        pipeline_id=body["pipeline_id"],
        pipeline=body["name"],
        status=body.get("status", ""),
    )
