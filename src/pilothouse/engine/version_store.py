"""SQL of the versions of runs (engine/runs.py)."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from pilothouse.engine.store import runs

# Built once: building one costs as much as running it.
_VERSION = select(runs.c.version).where(runs.c.id == bindparam("run_id"))
_SET_VERSION = update(runs).where(runs.c.id == bindparam("run_id")).values(version=bindparam("next"))


def run_version(conn: Connection, run_id: str) -> int | None:
    """The version of a run as stored; ``None`` if there is no such run."""
    return conn.execute(_VERSION, {"run_id": run_id}).scalar_one_or_none()


def set_run_version(conn: Connection, run_id: str, version: int) -> None:
    """Store the version of a run that this transaction changes."""
    conn.execute(_SET_VERSION, {"run_id": run_id, "next": version})
