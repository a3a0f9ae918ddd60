"""The table of artifacts, and its SQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    Row,
    Table,
    Text,
    case,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from pilothouse.engine.artifacts.model import Artifact, State
from pilothouse.storage import metadata

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("step_run_id", Text, nullable=False, index=True),
    Column("agent_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("files", Integer, nullable=False),
    Column("unpacked", BigInteger, nullable=False),
    Column("part_size", Integer, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ready_at", BigInteger, nullable=False),
    Column("expire_at", BigInteger, nullable=False),
    Index("artifacts_by_run", "run_id", "name"),
    Index("artifacts_by_project", "project", "format", "size"),
    Index("artifacts_by_expiry", "expire_at", sqlite_where=text("expire_at > 0")),
    Index("artifacts_unfinished", "state", "created_at", sqlite_where=text("state <> 'ready'")),
)

_FIELDS = [field.name for field in fields(Artifact)]
_SEEN = artifacts.c.state != State.DELETING.value


class Use(NamedTuple):
    """What a project stores: number and bytes of its artifacts, as announced."""

    number: int
    size: int


def use_of(conn: Connection, project: str) -> Use:
    """What counts towards the quotas of a project, until it is deleted."""
    stored = case((artifacts.c.format == "link", 0), else_=artifacts.c.size)
    query = select(func.count(), func.coalesce(func.sum(stored), 0))
    number, size = conn.execute(query.where(artifacts.c.project == project)).one()
    return Use(int(number), int(size))


def add(conn: Connection, artifact: Artifact) -> None:
    """Insert an artifact."""
    conn.execute(insert(artifacts).values(**{name: _plain(getattr(artifact, name)) for name in _FIELDS}))


def change(conn: Connection, artifact_id: str, **values: Any) -> None:
    """Set columns of an artifact."""
    conn.execute(
        update(artifacts)
        .where(artifacts.c.id == artifact_id)
        .values(**{name: _plain(value) for name, value in values.items()})
    )


def find(conn: Connection, artifact_id: str) -> Artifact | None:
    """An artifact that is not being deleted."""
    row = conn.execute(select(artifacts).where(artifacts.c.id == artifact_id, _SEEN)).first()
    return _artifact(row) if row else None


def of_run(conn: Connection, run_id: str) -> list[Artifact]:
    """A run's artifacts, also unfinished ones, by name."""
    query = select(artifacts).where(artifacts.c.run_id == run_id, _SEEN)
    return [_artifact(row) for row in conn.execute(query.order_by(artifacts.c.name, artifacts.c.id))]


def of_step_run(conn: Connection, step_run_id: str) -> list[Artifact]:
    """The finished artifacts of an attempt, by name."""
    query = select(artifacts).where(
        artifacts.c.step_run_id == step_run_id, artifacts.c.state == State.READY.value
    )
    return [_artifact(row) for row in conn.execute(query.order_by(artifacts.c.name))]


def named(conn: Connection, run_id: str, name: str) -> list[Artifact]:
    """Those of a run with this name: at most one is finished."""
    query = select(artifacts).where(artifacts.c.run_id == run_id, artifacts.c.name == name, _SEEN)
    return [_artifact(row) for row in conn.execute(query.order_by(artifacts.c.id))]


def delete_of_run(conn: Connection, run_id: str) -> None:
    """Hide a run's artifacts, and have their parts deleted."""
    conn.execute(update(artifacts).where(artifacts.c.run_id == run_id).values(state=State.DELETING.value))


def delete_expired(conn: Connection, now: int) -> int:
    """Hide the artifacts whose time has come, and have their parts deleted; returns their number."""
    old = (artifacts.c.expire_at > 0) & (artifacts.c.expire_at <= now)
    done = conn.execute(update(artifacts).where(old, _SEEN).values(state=State.DELETING.value))
    return done.rowcount


def unfinished(conn: Connection, before: int, limit: int) -> list[Artifact]:
    """Artifacts that were begun before a time and are not complete, oldest first."""
    query = select(artifacts).where(
        artifacts.c.state == State.UPLOADING.value, artifacts.c.created_at < before
    )
    return [_artifact(row) for row in conn.execute(query.order_by(artifacts.c.created_at).limit(limit))]


def deleted(conn: Connection, limit: int) -> list[Artifact]:
    """Some of the artifacts whose parts are to be deleted."""
    query = select(artifacts).where(artifacts.c.state == State.DELETING.value).limit(limit)
    return [_artifact(row) for row in conn.execute(query)]


def forget(conn: Connection, ids: Collection[str]) -> None:
    """Delete the rows of artifacts whose parts are deleted."""
    conn.execute(delete(artifacts).where(artifacts.c.id.in_(ids), artifacts.c.state == State.DELETING.value))


def _artifact(row: Row[Any]) -> Artifact:
    values = {name: getattr(row, name) for name in _FIELDS}
    return Artifact(**{**values, "state": State(values["state"])})


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, State) else value
