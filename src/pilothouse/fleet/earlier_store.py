"""What agents had pushed before they registered anew: table and statements."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Table,
    Text,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    select,
    update,
)

from pilothouse.fleet.store import forget_seen, ingest_seen
from pilothouse.storage import metadata

ingest_earlier = Table(
    "ingest_earlier",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("rpc", Text, primary_key=True),
    Column("batch_id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
)

_KEY = ("agent_id", "rpc", "batch_id")
_SEEN = (
    select(ingest_earlier.c.at)
    .where(
        ingest_earlier.c.agent_id == bindparam("agent_id"),
        ingest_earlier.c.rpc == bindparam("rpc"),
        ingest_earlier.c.batch_id == bindparam("batch_id"),
        ingest_earlier.c.at >= bindparam("since"),
    )
    .limit(1)
)


def seen_earlier(conn: Connection, agent_id: str, rpc: str, batch_id: str, since: int) -> bool:
    """Whether a batch was accepted before a registration of the agent that was after ``since`` (ms)."""
    given = {"agent_id": agent_id, "rpc": rpc, "batch_id": batch_id, "since": since}
    return conn.execute(_SEEN, given).first() is not None


def keep_seen(conn: Connection, agent_id: str, now: int, most: int) -> None:
    """The agent registers anew: its numbers start again, but what it has pushed is still known when it comes again.

    ``most``: about how many batches of an RPC are kept, those of the newest registrations.
    """
    seen, kept = ingest_seen.c, ingest_earlier.c
    same = [seen[name] == kept[name] for name in _KEY]
    theirs = seen.agent_id == agent_id
    both = exists().where(*same)
    conn.execute(update(ingest_earlier).where(kept.agent_id == agent_id, both).values(at=now))
    fresh = select(*(seen[name] for name in _KEY), literal(now, BigInteger)).where(theirs, ~both).distinct()
    conn.execute(insert(ingest_earlier).from_select([*_KEY, "at"], fresh))
    rpcs = select(kept.rpc).where(kept.agent_id == agent_id).distinct()
    for rpc in list(conn.execute(rpcs).scalars()):
        of_rpc = (kept.agent_id == agent_id, kept.rpc == rpc)
        times = select(kept.at).where(*of_rpc).order_by(kept.at.desc()).offset(most).limit(1)
        oldest = conn.execute(times).scalar_one_or_none()
        if oldest is not None and oldest < now:
            conn.execute(delete(ingest_earlier).where(*of_rpc, kept.at <= oldest))
    forget_seen(conn, agent_id)


def forget_earlier(conn: Connection, agent_id: str) -> None:
    """The agent is removed."""
    conn.execute(delete(ingest_earlier).where(ingest_earlier.c.agent_id == agent_id))
