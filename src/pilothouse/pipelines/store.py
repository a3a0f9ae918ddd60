"""The tables of pipelines and their statements."""

from __future__ import annotations

from collections.abc import Collection
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
    ScalarSelect,
    Table,
    Text,
    UniqueConstraint,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from pilothouse.engine.store import runs
from pilothouse.pipelines.model import Pipeline, SavedSpec
from pilothouse.storage import metadata
from pilothouse.storage.counting import count_ahead
from pilothouse.wire.specs import SpecFormat

MAX_LISTED = 4096
"""Characters of a pipeline's metadata, as JSON, that lists show."""

pipelines = Table(
    "pipelines",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("default_branch", Text, nullable=False),
    Column("file_path", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("repository", Text, nullable=False, server_default=""),
    Column("repo_url", Text, nullable=False, server_default=""),
    Column("repo_secret", Text, nullable=False, server_default=""),
    Column("save_mode", Integer, nullable=False, server_default="1"),
    Column("pr_target", Text, nullable=False, server_default=""),
    Column("synced_at", BigInteger, nullable=False, server_default="0"),
    Column("sync_message", Text, nullable=False, server_default=""),
    Column("head", Text, nullable=False),
    Column("last_editor", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("project", "name", name="pipelines_name"),
    Index("pipelines_by_repository", "project", "repository"),
)

pipeline_specs = Table(
    "pipeline_specs",
    metadata,
    Column("pipeline_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("head", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("format", Integer, nullable=False),
    Column("editor", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("spec", Text, nullable=False, server_default=""),
    Column("graph", Text, nullable=False, server_default=""),
    Column("names", Text, nullable=False, server_default=""),
    Column("triggers", Text, nullable=False, server_default=""),
)

#: The runs that requests with an id have started: the same request does not start another.
run_requests = Table(
    "run_requests",
    metadata,
    Column("pipeline_id", Text, primary_key=True),
    Column("caller", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("run_requests_by_time", "created_at"),
)

REQUESTS_KEPT = 24 * 3600 * 1000
"""Milliseconds."""


def _values(pipeline: Pipeline) -> dict[str, Any]:
    names = [c.name for c in pipelines.c if c.name != "metadata"]
    values = {name: getattr(pipeline, name) for name in names}
    return {**values, "metadata": orjson.dumps(pipeline.metadata).decode()}


def _pipeline(row: Row[Any]) -> Pipeline:
    values = dict(row._mapping)
    values["metadata"] = orjson.loads(values["metadata"])
    values["enabled"] = bool(values["enabled"])
    return Pipeline(**values)


def insert_pipeline(conn: Connection, pipeline: Pipeline) -> None:
    """Store a new pipeline."""
    conn.execute(insert(pipelines).values(**_values(pipeline)))


def save_pipeline(conn: Connection, pipeline: Pipeline) -> None:
    """Update a pipeline."""
    conn.execute(update(pipelines).where(pipelines.c.id == pipeline.id).values(**_values(pipeline)))


def delete_pipeline(conn: Connection, pipeline_id: str) -> None:
    """Delete a pipeline and its specs; its runs are kept."""
    delete_specs(conn, pipeline_id)
    conn.execute(delete(pipelines).where(pipelines.c.id == pipeline_id))


def ids_of_project(conn: Connection, project: str, limit: int) -> list[str]:
    """The ids of some pipelines of a project."""
    return list(
        conn.execute(select(pipelines.c.id).where(pipelines.c.project == project).limit(limit)).scalars()
    )


def delete_specs(conn: Connection, pipeline_id: str) -> None:
    """Delete all versions of a pipeline's spec."""
    conn.execute(delete(pipeline_specs).where(pipeline_specs.c.pipeline_id == pipeline_id))


def pipeline(conn: Connection, pipeline_id: str) -> Pipeline | None:
    """The pipeline of that id."""
    row = conn.execute(select(pipelines).where(pipelines.c.id == pipeline_id)).first()
    return _pipeline(row) if row else None


def pipeline_named(conn: Connection, project: str, name: str) -> Pipeline | None:
    """The project's pipeline of that name."""
    query = select(pipelines).where(pipelines.c.project == project, pipelines.c.name == name)
    row = conn.execute(query).first()
    return _pipeline(row) if row else None


def count_pipelines(conn: Connection, project: str) -> int:
    """The number of a project's pipelines."""
    chosen = select(func.count()).select_from(pipelines).where(pipelines.c.project == project)
    return int(conn.execute(chosen).scalar_one())


def list_pipelines(
    conn: Connection,
    *,
    projects: frozenset[str] | None,
    project: str,
    name: str,
    repository: str = "",
    statuses: Collection[str] | None = None,
    page: int,
    size: int,
) -> tuple[list[Pipeline], int]:
    """A page of pipelines by name and how many there are (``count_ahead``); ``projects`` limits what is seen.

    ``metadata`` is ``None`` where it has over ``MAX_LISTED`` characters. ``statuses``: only those whose newest run
    has one of them.
    """
    conditions: list[ColumnElement[bool]] = []
    if projects is not None:
        conditions.append(pipelines.c.project.in_(projects))
    if project:
        conditions.append(pipelines.c.project == project)
    if name:
        conditions.append(pipelines.c.name == name)
    if repository:
        conditions.append(pipelines.c.repository == repository)
    if statuses is not None:
        conditions.append(_newest_run().in_(statuses))
    offset = (page - 1) * size
    total = count_ahead(conn, select(pipelines.c.id).where(*conditions), offset)
    few = func.length(pipelines.c.metadata) <= MAX_LISTED
    columns: list[Any] = [c for c in pipelines.c if c.name != "metadata"]
    columns.append(case((few, pipelines.c.metadata), else_="null").label("metadata"))
    query = select(*columns).where(*conditions).order_by(pipelines.c.name, pipelines.c.id)
    rows = conn.execute(query.limit(size).offset(offset))
    return [_pipeline(row) for row in rows], total


def _newest_run() -> ScalarSelect[str]:
    mine = select(runs.c.status).where(runs.c.pipeline_id == pipelines.c.id)
    return mine.order_by(runs.c.id.desc()).limit(1).correlate(pipelines).scalar_subquery()


def add_spec(conn: Connection, pipeline_id: str, spec: SavedSpec) -> None:
    """Store a version of a pipeline's spec."""
    newest = select(func.max(pipeline_specs.c.version)).where(pipeline_specs.c.pipeline_id == pipeline_id)
    version = (conn.execute(newest).scalar_one_or_none() or 0) + 1
    values = {
        "head": spec.head,
        "text": spec.text,
        "format": int(spec.format),
        "editor": spec.editor,
        "message": spec.message,
        "created_at": spec.created_at,
        "spec": spec.spec,
        "graph": spec.graph,
        "names": spec.names,
        "triggers": spec.triggers,
    }
    conn.execute(insert(pipeline_specs).values(pipeline_id=pipeline_id, version=version, **values))


def newest_spec(conn: Connection, pipeline_id: str) -> SavedSpec | None:
    """The current spec."""
    s = pipeline_specs.c
    row = conn.execute(
        select(pipeline_specs).where(s.pipeline_id == pipeline_id).order_by(s.version.desc()).limit(1)
    ).first()
    if row is None:
        return None
    return SavedSpec(
        text=row.text,
        format=SpecFormat(row.format),
        head=row.head,
        editor=row.editor,
        message=row.message,
        created_at=row.created_at,
        spec=row.spec,
        graph=row.graph,
        names=row.names,
        triggers=row.triggers,
    )


def forget_old_specs(conn: Connection, pipeline_id: str, keep: int) -> None:
    """Delete all but the newest versions of a spec that git keeps."""
    s = pipeline_specs.c
    newest = select(func.max(s.version)).where(s.pipeline_id == pipeline_id).scalar_subquery()
    conn.execute(delete(pipeline_specs).where(s.pipeline_id == pipeline_id, s.version <= newest - keep))


def newest_graph(conn: Connection, pipeline_id: str) -> str:
    """The compiled graph of the current spec; empty if there is none."""
    s = pipeline_specs.c
    query = select(s.graph).where(s.pipeline_id == pipeline_id).order_by(s.version.desc()).limit(1)
    return str(conn.execute(query).scalar_one_or_none() or "")


def keep_compiled(conn: Connection, pipeline_id: str, head: str, **texts: str) -> None:
    """Store the compiled form of a spec that an older release has saved."""
    s = pipeline_specs.c
    conn.execute(update(pipeline_specs).where(s.pipeline_id == pipeline_id, s.head == head).values(**texts))


# -- requests with an id --------------------------------------------------------------------------------


def requested_run(
    conn: Connection, pipeline_id: str, caller: str, request_id: str, now: int
) -> tuple[str, str] | None:
    """The run that this request has started within a day, and the digest of the request."""
    r = run_requests.c
    mine = (r.pipeline_id == pipeline_id, r.caller == caller, r.request_id == request_id)
    row = conn.execute(select(r.run_id, r.digest).where(*mine, r.created_at > now - REQUESTS_KEPT)).first()
    return (row.run_id, row.digest) if row else None


def keep_request(
    conn: Connection, pipeline_id: str, caller: str, request_id: str, *, digest: str, run_id: str, now: int
) -> None:
    """Remember a request, and forget those of more than a day ago."""
    conn.execute(delete(run_requests).where(run_requests.c.created_at <= now - REQUESTS_KEPT))
    conn.execute(
        insert(run_requests).values(
            pipeline_id=pipeline_id,
            caller=caller,
            request_id=request_id,
            digest=digest,
            run_id=run_id,
            created_at=now,
        )
    )
