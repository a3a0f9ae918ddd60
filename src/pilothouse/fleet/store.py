"""The fleet's tables and statements."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    Table,
    Text,
    bindparam,
    delete,
    false,
    func,
    insert,
    select,
    true,
    update,
)

from pilothouse.fleet.bindings import Binding, listed, unlisted
from pilothouse.fleet.connection_store import connections, judged_by
from pilothouse.fleet.model import SESSIONS, SLOTS, Agent, AgentProfile, Candidate, Lease, LeaseState
from pilothouse.storage import Prepared, metadata

agents = Table(
    "agents",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("max_sessions", Integer, nullable=False),
    Column("os", Text, nullable=False),
    Column("arch", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("ip", Text, nullable=False),
    Column("token_hash", Text, nullable=False, index=True),
    Column("online", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("last_heartbeat", BigInteger, nullable=False),
    Column("offline_since", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("blocked", Integer, nullable=False, server_default="0"),
    Column("problems", Text, nullable=False, server_default="[]"),
    Column("registered_by", Text, nullable=False, server_default=""),
    Column("projects", Text, nullable=True),
    Column("allowed_labels", Text, nullable=True),
    Column("ephemeral", Boolean, nullable=False, server_default=false()),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("agent_id", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("granted_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("capacity", Text, nullable=False, server_default=SLOTS),
    Column("stop_reason", Text, nullable=False, server_default=""),
    Column("project", Text, nullable=False, server_default=""),
    Column("claimed", Boolean, nullable=False, server_default=true()),
)

ingest_seen = Table(
    "ingest_seen",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("rpc", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", Text, nullable=False),
)

# Statements that run for each step, heartbeat or batch.
_AGENT = Prepared(select(agents).where(agents.c.agent_id == bindparam("agent_id")))
_AGENTS = select(agents).order_by(agents.c.agent_id)
_a = agents.c
_ONLINE = Prepared(
    select(
        _a.agent_id,
        _a.slots,
        _a.max_sessions,
        _a.labels,
        _a.metadata,
        _a.draining,
        _a.blocked,
        _a.projects,
        _a.allowed_labels,
    )
    .where(_a.online)
    .order_by(_a.agent_id)
)
_LEASE_COLUMNS = [column.name for column in leases.c]
_ADD_LEASE = Prepared(insert(leases))
_LEASE = Prepared(select(leases).where(leases.c.id == bindparam("lease_id")))
_LEASES_OF = select(leases).where(leases.c.agent_id == bindparam("agent_id")).order_by(leases.c.id)
_HELD = Prepared(
    select(leases.c.agent_id, func.count())
    .where(leases.c.capacity == bindparam("capacity"))
    .group_by(leases.c.agent_id)
)
_START_LEASE = Prepared(
    update(leases)
    .where(leases.c.id == bindparam("lease_id"))
    .values(state=LeaseState.STARTED.value, capacity=bindparam("takes"))
)
_RENEW = (
    update(leases)
    .where(leases.c.agent_id == bindparam("holder"), leases.c.claimed)
    .values(expires_at=bindparam("until"))
)
_RENEW_STARTED = _RENEW.where(leases.c.state == LeaseState.STARTED.value)
_DROP_LEASE = Prepared(delete(leases).where(leases.c.id == bindparam("lease_id")))
_LAST_SEQ = Prepared(
    select(ingest_seen.c.seq)
    .where(ingest_seen.c.agent_id == bindparam("agent_id"), ingest_seen.c.rpc == bindparam("rpc"))
    .order_by(ingest_seen.c.seq.desc())
    .limit(1)
)
_MARK_SEEN = Prepared(insert(ingest_seen))

# -- agents ---------------------------------------------------------------------------------------------


def agent(conn: Connection, agent_id: str) -> Agent | None:
    """The agent with this name."""
    row = _AGENT.first(conn, {"agent_id": agent_id})
    return _agent(row) if row else None


def agent_by_token(conn: Connection, token_hash: str) -> Agent | None:
    """The agent with this credential."""
    row = conn.execute(select(agents).where(agents.c.token_hash == token_hash)).first()
    return _agent(row) if row else None


def count_agents(conn: Connection) -> int:
    """How many agents are registered."""
    return int(conn.execute(select(func.count()).select_from(agents)).scalar_one())


def all_agents(conn: Connection) -> list[Agent]:
    """Every registered agent, by name."""
    return [_agent(row) for row in conn.execute(_AGENTS)]


def online_agents(conn: Connection) -> list[Any]:
    """What decides the work of each agent that is online, as stored, by name; :func:`candidate` decodes a row."""
    return _ONLINE.all(conn, {})


def candidate(row: Any) -> Candidate:
    """Decode a row of :func:`online_agents`."""
    return Candidate(
        agent_id=row.agent_id,
        capacity={SLOTS: row.slots, SESSIONS: row.max_sessions},
        labels=orjson.loads(row.labels),
        git=bool(orjson.loads(row.metadata).get("git")),
        draining=bool(row.draining),
        blocked=row.blocked,
        binding=Binding(unlisted(row.projects), unlisted(row.allowed_labels)),
    )


def put_agent(conn: Connection, id: str, profile: AgentProfile, token_hash: str | None, now: int) -> None:
    """Insert an agent, or update the profile of a known one; ``token_hash`` None: its credential stays."""
    values: dict[str, Any] = {
        "name": profile.name or profile.agent_id,
        "platform": profile.platform,
        "region": profile.region,
        "labels": orjson.dumps(dict(profile.labels)).decode(),
        "metadata": orjson.dumps(dict(profile.metadata)).decode(),
        "slots": profile.slots,
        "max_sessions": profile.max_sessions,
        "os": profile.os,
        "arch": profile.arch,
        "version": profile.version,
        "ip": profile.ip,
        "ephemeral": profile.ephemeral,
        "updated_at": now,
    }
    if token_hash is not None:
        values["token_hash"] = token_hash
    done = conn.execute(update(agents).where(agents.c.agent_id == profile.agent_id).values(**values))
    if done.rowcount == 0:
        fresh = {"online": False, "draining": False, "last_heartbeat": 0}
        stamps = {"offline_since": now, "created_at": now}
        conn.execute(insert(agents).values(agent_id=profile.agent_id, id=id, **values, **fresh, **stamps))


def set_agent(conn: Connection, agent_id: str, **values: Any) -> None:
    """Change columns of one agent."""
    conn.execute(update(agents).where(agents.c.agent_id == agent_id).values(**values))


def reset_heartbeats(conn: Connection, server: str, now: int) -> None:
    """Set the last heartbeat of every online agent that this server judges to now."""
    mine = judged_by(server, agents.c.agent_id)
    conn.execute(update(agents).where(agents.c.online, mine).values(last_heartbeat=now))


def set_condition(conn: Connection, agent_id: str, blocked: int, problems: tuple[str, ...]) -> None:
    """Store the condition that an agent reports."""
    set_agent(conn, agent_id, blocked=blocked, problems=orjson.dumps(problems).decode())


def set_labels(conn: Connection, agent_id: str, labels: dict[str, str], now: int) -> None:
    """Replace an agent's labels."""
    set_agent(conn, agent_id, labels=orjson.dumps(labels).decode(), updated_at=now)


def bind_agent(conn: Connection, agent_id: str, registered_by: str, binding: Binding) -> None:
    """Store which registration token an agent has used, and what that allows."""
    bound = {"projects": listed(binding.projects), "allowed_labels": listed(binding.labels)}
    set_agent(conn, agent_id, registered_by=registered_by, **bound)


def delete_agent(conn: Connection, agent_id: str) -> None:
    """Delete an agent; its entries stay in the journal."""
    conn.execute(delete(agents).where(agents.c.agent_id == agent_id))


def silent_agents(conn: Connection, server: str, before: int) -> list[Agent]:
    """Online agents whose last heartbeat was before ``before``, of those that this server judges."""
    silent = (agents.c.online, agents.c.last_heartbeat < before, judged_by(server, agents.c.agent_id))
    return [_agent(row) for row in conn.execute(select(agents).where(*silent))]


def left_agents(conn: Connection, before: int) -> list[str]:
    """Names of ephemeral agents that have been offline since ``before``."""
    a = agents.c
    gone = select(a.agent_id).where(a.ephemeral, a.online.is_(False), a.offline_since <= before)
    return list(conn.execute(gone).scalars())


def _agent(row: Any) -> Agent:
    profile = AgentProfile(
        agent_id=row.agent_id,
        name=row.name,
        platform=row.platform,
        region=row.region,
        labels=orjson.loads(row.labels),
        metadata=orjson.loads(row.metadata),
        slots=row.slots,
        max_sessions=row.max_sessions,
        os=row.os,
        arch=row.arch,
        version=row.version,
        ip=row.ip,
        ephemeral=bool(row.ephemeral),
    )
    return Agent(
        id=row.id,
        profile=profile,
        online=bool(row.online),
        draining=bool(row.draining),
        last_heartbeat=row.last_heartbeat,
        offline_since=row.offline_since,
        created_at=row.created_at,
        updated_at=row.updated_at,
        registered_by=row.registered_by,
        binding=Binding(unlisted(row.projects), unlisted(row.allowed_labels)),
        blocked=row.blocked,
        problems=tuple(orjson.loads(row.problems)),
    )


# -- leases ---------------------------------------------------------------------------------------------


def add_lease(conn: Connection, made: Lease) -> None:
    """Store a new lease."""
    values = {column: getattr(made, column) for column in _LEASE_COLUMNS}
    _ADD_LEASE.run(conn, {**values, "state": made.state.value})


def lease(conn: Connection, id: str) -> Lease | None:
    """The lease of a task, if there is one."""
    row = _LEASE.first(conn, {"lease_id": id})
    return _lease(row) if row else None


def leases_of(conn: Connection, agent_id: str) -> list[Lease]:
    """What an agent holds, oldest first."""
    return [_lease(row) for row in conn.execute(_LEASES_OF, {"agent_id": agent_id})]


def held_by_agent(conn: Connection, capacity: str = SLOTS) -> dict[str, int]:
    """How many units of this capacity are occupied on each agent."""
    return dict(_HELD.all(conn, {"capacity": capacity}))


def held_by(conn: Connection, agent_id: str, capacity: str = SLOTS) -> int:
    """How many units of this capacity are occupied on an agent."""
    taken = (leases.c.agent_id == agent_id, leases.c.capacity == capacity)
    counted = select(func.count()).select_from(leases).where(*taken)
    return int(conn.execute(counted).scalar_one())


def start_lease(conn: Connection, id: str, capacity: str) -> None:
    """Mark a lease as started; the task occupies a unit of ``capacity`` from now on (empty: nothing)."""
    _START_LEASE.run(conn, {"lease_id": id, "takes": capacity})


def stop_lease(conn: Connection, id: str, reason: str) -> None:
    """Store that the agent is to stop the task."""
    conn.execute(update(leases).where(leases.c.id == id).values(stop_reason=reason))


def stopping_leases(conn: Connection, server: str) -> list[Lease]:
    """The leases of tasks to be stopped, of the agents that are connected to this server."""
    mine = select(connections.c.agent_id).where(connections.c.server == server)
    wanted = select(leases).where(leases.c.stop_reason != "", leases.c.agent_id.in_(mine))
    return [_lease(row) for row in conn.execute(wanted)]


def renew_leases(conn: Connection, agent_id: str, expires_at: int, *, started_only: bool = False) -> None:
    """Renew the leases that an agent claims, or only the started ones among them."""
    statement = _RENEW_STARTED if started_only else _RENEW
    conn.execute(statement, {"holder": agent_id, "until": expires_at})


def disclaim_leases(conn: Connection, agent_id: str, expires_at: int) -> None:
    """The agent has registered anew: what it had started expires, unless it says that it still runs it."""
    theirs = (leases.c.agent_id == agent_id, leases.c.state == LeaseState.STARTED.value)
    conn.execute(update(leases).where(*theirs).values(claimed=False, expires_at=expires_at))


def claim_lease(conn: Connection, id: str, expires_at: int) -> None:
    """The agent says that it still runs the task."""
    conn.execute(update(leases).where(leases.c.id == id).values(claimed=True, expires_at=expires_at))


def renew_lease(conn: Connection, id: str, expires_at: int) -> None:
    """Renew one lease."""
    conn.execute(update(leases).where(leases.c.id == id).values(expires_at=expires_at))


def renew_all_leases(conn: Connection, server: str, expires_at: int) -> None:
    """Renew every lease of the agents that this server judges."""
    mine = judged_by(server, leases.c.agent_id)
    conn.execute(update(leases).where(mine).values(expires_at=expires_at))


def expired_leases(conn: Connection, server: str, now: int, limit: int = 200) -> list[Lease]:
    """Leases that have expired, of the agents that this server judges."""
    over = (leases.c.expires_at <= now, judged_by(server, leases.c.agent_id))
    found = conn.execute(select(leases).where(*over).order_by(leases.c.id).limit(limit))
    return [_lease(row) for row in found]


def drop_lease(conn: Connection, id: str) -> None:
    """Delete a lease that has ended."""
    _DROP_LEASE.run(conn, {"lease_id": id})


def _lease(row: Any) -> Lease:
    return Lease(
        id=row.id,
        agent_id=row.agent_id,
        kind=row.kind,
        state=LeaseState(row.state),
        granted_at=row.granted_at,
        expires_at=row.expires_at,
        project=row.project,
        capacity=row.capacity,
        stop_reason=row.stop_reason,
        claimed=bool(row.claimed),
    )


# -- sequence numbers of what agents push ---------------------------------------------------------------


def last_seq(conn: Connection, agent_id: str, rpc: str) -> int:
    """The highest sequence number accepted from this agent on this RPC; -1 before the first."""
    last = _LAST_SEQ.first(conn, {"agent_id": agent_id, "rpc": rpc})
    return -1 if last is None else int(last.seq)


def seen_batch(conn: Connection, agent_id: str, rpc: str, seq: int) -> str | None:
    """The batch id that was accepted with a sequence number."""
    s = ingest_seen.c
    found = select(s.batch_id).where(s.agent_id == agent_id, s.rpc == rpc, s.seq == seq)
    return conn.execute(found).scalar_one_or_none()


def seen_below(conn: Connection, agent_id: str, rpc: str, seq: int) -> bool:
    """Whether a lower sequence number was accepted."""
    s = ingest_seen.c
    lower = select(s.seq).where(s.agent_id == agent_id, s.rpc == rpc, s.seq < seq).limit(1)
    return conn.execute(lower).first() is not None


def mark_seen(conn: Connection, agent_id: str, rpc: str, seq: int, batch_id: str) -> None:
    """Store a sequence number and its batch id."""
    _MARK_SEEN.run(conn, {"agent_id": agent_id, "rpc": rpc, "seq": seq, "batch_id": batch_id})


def forget_seen(conn: Connection, agent_id: str, rpc: str | None = None, below: int | None = None) -> None:
    """Delete sequence numbers: all of an agent's, or those of one RPC below a number."""
    s = ingest_seen.c
    statement = delete(ingest_seen).where(s.agent_id == agent_id)
    if rpc is not None:
        statement = statement.where(s.rpc == rpc)
    if below is not None:
        statement = statement.where(s.seq < below)
    conn.execute(statement)
