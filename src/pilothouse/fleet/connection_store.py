"""Servers, and the connections of agents that each holds: tables and statements."""

from __future__ import annotations

import functools
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Table,
    Text,
    bindparam,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)

from pilothouse.fleet.model import AgentConnection, ServerRecord
from pilothouse.storage import Prepared, metadata

servers = Table(
    "servers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    Column("renewed_at", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
)

connections = Table(
    "connections",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("server", Text, nullable=False, index=True),
    Column("kinds", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
)

_ALL = select(connections).order_by(connections.c.id)
_EVERY = Prepared(_ALL)
_OF_AGENT = _ALL.where(connections.c.agent_id == bindparam("agent_id"))


# -- connections ----------------------------------------------------------------------------------------


def put_connection(conn: Connection, made: AgentConnection) -> None:
    """Store the agent's connection on its channel, in place of an older one."""
    c = connections.c
    conn.execute(delete(connections).where(c.agent_id == made.agent_id, c.channel == made.channel))
    values = {"agent_id": made.agent_id, "channel": made.channel, "id": made.id, "server": made.server}
    kinds = orjson.dumps(sorted(made.kinds)).decode()
    conn.execute(insert(connections).values(**values, kinds=kinds, number=made.number))


def drop_connection(conn: Connection, id: str) -> bool:
    """Remove a connection that has ended; ``False`` if it was replaced or removed before."""
    return conn.execute(delete(connections).where(connections.c.id == id)).rowcount == 1


def drop_connections(conn: Connection, agent_id: str) -> None:
    """Remove all connections of an agent."""
    conn.execute(delete(connections).where(connections.c.agent_id == agent_id))


def recount_connections(conn: Connection, agent_id: str) -> None:
    """Reset the numbers of an agent's connections, since it will number them from the start."""
    conn.execute(update(connections).where(connections.c.agent_id == agent_id).values(number=0))


def connections_of(conn: Connection, agent_id: str) -> list[AgentConnection]:
    """An agent's connections, the newest last."""
    return [_connection(row) for row in conn.execute(_OF_AGENT, {"agent_id": agent_id})]


def connections_by_agent(conn: Connection) -> dict[str, list[AgentConnection]]:
    """Every connection by its agent, the newest last."""
    found: dict[str, list[AgentConnection]] = {}
    for row in _EVERY.all(conn, {}):
        found.setdefault(row.agent_id, []).append(_connection(row))
    return found


def held_by_server(conn: Connection, server: str) -> set[str]:
    """The ids of the connections that a server holds."""
    return set(conn.execute(select(connections.c.id).where(connections.c.server == server)).scalars())


def judged_by(server: str, agent_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether this server decides that the agent is silent: it holds a connection of it, or no server does."""
    any_ = exists().where(connections.c.agent_id == agent_id)
    return or_(any_.where(connections.c.server == server), ~any_)


def _connection(row: Any) -> AgentConnection:
    kinds = _kinds(row.kinds)
    return AgentConnection(row.agent_id, row.channel, row.id, row.server, kinds, row.number)


@functools.lru_cache(64)
def _kinds(stored: str) -> frozenset[str]:
    return frozenset(orjson.loads(stored))  # nearly all agents carry the same kinds


# -- servers --------------------------------------------------------------------------------------------


def add_server(conn: Connection, id: str, version: str, now: int) -> None:
    """Store the row of a server that starts."""
    conn.execute(insert(servers).values(id=id, started_at=now, renewed_at=now, version=version))


def renew_server(conn: Connection, id: str, now: int) -> bool:
    """Renew the row of a server; ``False`` if another server has removed it."""
    return conn.execute(update(servers).where(servers.c.id == id).values(renewed_at=now)).rowcount == 1


def other_servers(conn: Connection, id: str) -> list[ServerRecord]:
    """The rows of all other servers."""
    found = conn.execute(select(servers.c.id, servers.c.renewed_at).where(servers.c.id != id))
    return [ServerRecord(row.id, row.renewed_at) for row in found]


def drop_server(conn: Connection, id: str, renewed_at: int | None = None) -> bool:
    """Remove the row of a server that is gone; ``False`` if it was renewed since, or is removed already."""
    wanted = servers.c.id == id
    if renewed_at is not None:
        wanted &= servers.c.renewed_at == renewed_at
    return conn.execute(delete(servers).where(wanted)).rowcount == 1


def orphan_agents(conn: Connection, server: str) -> list[str]:
    """Remove the connections of a server that is gone; returns the names of their agents."""
    theirs = connections.c.server == server
    agents = sorted(set(conn.execute(select(connections.c.agent_id).where(theirs)).scalars()))
    conn.execute(delete(connections).where(theirs))
    return agents
