"""The graphs of runs, as they were made and as they have grown since: a row for each part."""

from __future__ import annotations

from functools import lru_cache

import orjson
from sqlalchemy import Column, Connection, Integer, Table, Text, insert, select

from pilothouse.engine.first_graphs import from_spec
from pilothouse.engine.graph import Graph
from pilothouse.engine.graph_json import decoded
from pilothouse.storage import metadata

run_graphs = Table(
    "run_graphs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)


def insert_graph(conn: Connection, run_id: str, body: str) -> None:
    """Store the graph of a new run."""
    conn.execute(insert(run_graphs).values(run_id=run_id, part=0, body=body))


def load_graph(conn: Connection, run_id: str, spec: str) -> Graph:
    """A run's graph; ``spec`` is what older releases stored in its place."""
    query = select(run_graphs.c.body).where(run_graphs.c.run_id == run_id)
    bodies = list(conn.execute(query.order_by(run_graphs.c.part)).scalars())
    return decoded(bodies[0]) if bodies else _of_spec(spec)


@lru_cache(maxsize=64)
def _of_spec(spec: str) -> Graph:
    return from_spec(orjson.loads(spec))
