"""The table of gates, and its SQL."""

from __future__ import annotations

from dataclasses import asdict, fields
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
    func,
    insert,
    select,
    update,
)

from pilothouse.engine.gates.model import Approval, Gate
from pilothouse.storage import metadata
from pilothouse.storage.counting import count_ahead

gates = Table(
    "gates",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("users", Text, nullable=False),
    Column("child_run", Text, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False),
    Column("closed_at", BigInteger, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("decided_by_id", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("run_name", Text, nullable=False, server_default=""),
    Column("job", Text, nullable=False, server_default=""),
    Column("step", Text, nullable=False, server_default=""),
    Column("needed", Integer, nullable=False, server_default="1"),
    Column("approvals", Text, nullable=False, server_default="[]"),
    Index("gates_by_run", "run_id", "id"),
    Index("gates_by_status", "status", "id"),
)

_LISTS = ("roles", "users", "approvals")


def insert_gate(conn: Connection, gate: Gate) -> None:
    """Insert a gate."""
    conn.execute(insert(gates).values(_values(gate)))


def save_gate(conn: Connection, gate: Gate) -> None:
    """Update the row of a gate."""
    conn.execute(update(gates).where(gates.c.id == gate.id).values(_values(gate)))


def find_gate(conn: Connection, gate_id: str) -> Gate | None:
    """The gate with this id."""
    row = conn.execute(select(gates).where(gates.c.id == gate_id)).first()
    return _gate(row) if row else None


def list_gates(
    conn: Connection,
    *,
    run: str,
    status: str,
    projects: frozenset[str] | None,
    page: int,
    limit: int,
    kind: str = "",
) -> tuple[list[Gate], int]:
    """A page of gates, most recently opened first, and the total; empty filters match everything.

    ``projects``: only gates of these projects; ``None``: all.
    """
    conditions = []
    if run:
        conditions.append(gates.c.run_id == run)
    if status:
        conditions.append(gates.c.status == status)
    if kind:
        conditions.append(gates.c.kind == kind)
    if projects is not None:
        conditions.append(gates.c.project.in_(projects))
    offset = (page - 1) * limit
    total = count_ahead(conn, select(gates.c.id).where(*conditions), offset)
    query = select(gates).where(*conditions).order_by(gates.c.opened_at.desc(), gates.c.id.desc())
    rows = conn.execute(query.limit(limit).offset(offset))
    return [_gate(row) for row in rows], total


def count_runs_below(conn: Connection, run_id: str, most: int) -> int:
    """How many runs gates of this run have started, and gates of those, and so on; counted up to ``most``."""
    below = (
        select(gates.c.child_run).where(gates.c.run_id == run_id, gates.c.child_run != "").cte(recursive=True)
    )
    next_below = select(gates.c.child_run).where(gates.c.run_id == below.c.child_run, gates.c.child_run != "")
    found = select(below.union_all(next_below).c.child_run).limit(most).subquery()
    return conn.execute(select(func.count()).select_from(found)).scalar_one()


def _values(gate: Gate) -> dict[str, Any]:
    values = asdict(gate)
    return values | {name: orjson.dumps(values[name]).decode() for name in _LISTS}


def _gate(row: Row[Any]) -> Gate:
    values = {part.name: row._mapping[part.name] for part in fields(Gate)}
    lists = {name: orjson.loads(values[name]) for name in _LISTS}
    lists["approvals"] = [Approval(**one) for one in lists["approvals"]]
    return Gate(**values | lists)
