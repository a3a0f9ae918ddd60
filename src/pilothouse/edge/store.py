"""The tables of answers to idempotent requests and of leases of periodic work, and their statements."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    and_,
    delete,
    insert,
    or_,
    select,
    update,
)

from pilothouse.storage import metadata

#: The first answer to each idempotent request, encrypted, without the secret that it showed. ``caller`` names the
#: token.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("idempotency_keys_by_time", "created_at"),
)

#: The server that does exclusive periodic work, and until when (ms) unless it renews.
periodic_leases = Table(
    "periodic_leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("server", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
)


def claim_key(conn: Connection, caller: str, route: str, key: str, request: str, now: int) -> None:
    """Claim the key; a concurrent transaction with the same key waits, then finds it taken."""
    conn.execute(
        insert(idempotency_keys).values(
            caller=caller, route=route, key=key, request=request, status=0, answer=b"", created_at=now
        )
    )


def record_answer(conn: Connection, caller: str, route: str, key: str, status: int, answer: bytes) -> None:
    """Store the encrypted answer under the claimed key."""
    conn.execute(
        update(idempotency_keys).where(_key(caller, route, key)).values(status=status, answer=answer)
    )


def find_answer(conn: Connection, caller: str, route: str, key: str) -> tuple[str, int, bytes] | None:
    """The request's digest, the status and the encrypted answer."""
    wanted = select(idempotency_keys.c.request, idempotency_keys.c.status, idempotency_keys.c.answer)
    row = conn.execute(wanted.where(_key(caller, route, key))).first()
    return None if row is None else (row.request, row.status, row.answer)


def purge_keys(conn: Connection, before: int) -> None:
    """Delete keys first used before this time."""
    conn.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < before))


def _key(caller: str, route: str, key: str) -> Any:
    return and_(
        idempotency_keys.c.caller == caller, idempotency_keys.c.route == route, idempotency_keys.c.key == key
    )


def take_periodic_lease(
    conn: Connection, name: str, server: str, now: int, until: int, *, keep: int = 0
) -> bool:
    """Take or renew the lease of periodic work; False while another server holds it. Times in ms.

    ``keep``: a lease of its own that lasts at least so long is not renewed, which saves a write in most rounds.
    """
    p = periodic_leases.c
    if keep:
        mine = select(p.until).where(p.name == name, p.server == server, p.until >= now + keep)
        if conn.execute(mine).first() is not None:
            return True
    free = and_(p.name == name, or_(p.server == server, p.until <= now))
    if conn.execute(update(periodic_leases).where(free).values(server=server, until=until)).rowcount:
        return True
    if conn.execute(select(p.name).where(p.name == name)).first() is not None:
        return False
    conn.execute(insert(periodic_leases).values(name=name, server=server, until=until))
    return True


def release_periodic_leases(conn: Connection, server: str) -> None:
    """Give up all leases of a server, which does no more periodic work."""
    conn.execute(delete(periodic_leases).where(periodic_leases.c.server == server))
