"""SQL of the versions of runs (engine/runs.py)."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from pilothouse.engine.store import runs
from pilothouse.storage import Prepared

_VERSION = Prepared(select(runs.c.version).where(runs.c.id == bindparam("run_id")))
_SET_VERSION = Prepared(
    update(runs).where(runs.c.id == bindparam("run_id")).values(version=bindparam("next"))
)


def run_version(conn: Connection, run_id: str) -> int | None:
    """The version of a run as stored; ``None`` if there is no such run."""
    found = _VERSION.first(conn, {"run_id": run_id})
    return None if found is None else int(found.version)


def set_run_version(conn: Connection, run_id: str, version: int) -> None:
    """Store the version of a run that this transaction changes."""
    _SET_VERSION.run(conn, {"run_id": run_id, "next": version})
