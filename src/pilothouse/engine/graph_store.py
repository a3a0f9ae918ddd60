"""Stores the graphs of runs: one row for the original graph and one for each addition or changed step."""

from __future__ import annotations

from functools import lru_cache

import orjson
from sqlalchemy import Column, Connection, Integer, Table, Text, func, insert, select

from pilothouse.engine.graph import Graph
from pilothouse.engine.graph_json import decoded, with_part
from pilothouse.engine.legacy_graphs import from_spec
from pilothouse.storage import metadata

run_graphs = Table(
    "run_graphs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)


def insert_graph(conn: Connection, run_id: str, part: int, body: str) -> None:
    """Store a part of a run's graph: 0 is the original graph, further parts are changes."""
    conn.execute(insert(run_graphs).values(run_id=run_id, part=part, body=body))


def count_parts(conn: Connection, run_id: str) -> int:
    """The number of stored parts."""
    query = select(func.count()).select_from(run_graphs).where(run_graphs.c.run_id == run_id)
    return int(conn.execute(query).scalar_one())


def size(conn: Connection, run_id: str) -> int:
    """Characters of the original graph; 0 if an older release stored it."""
    query = select(func.length(run_graphs.c.body)).where(
        run_graphs.c.run_id == run_id, run_graphs.c.part == 0
    )
    return int(conn.execute(query).scalar() or 0)


def load_graph(conn: Connection, run_id: str, spec: str) -> Graph:
    """A run's graph; ``spec``: the spec that older releases stored instead."""
    query = select(run_graphs.c.body).where(run_graphs.c.run_id == run_id)
    bodies = list(conn.execute(query.order_by(run_graphs.c.part)).scalars())
    if not bodies:
        return _of_spec(spec)
    graph = decoded(bodies[0])
    for body in bodies[1:]:
        graph = with_part(graph, orjson.loads(body))
    return graph


@lru_cache(maxsize=64)
def _of_spec(spec: str) -> Graph:
    return from_spec(orjson.loads(spec))
