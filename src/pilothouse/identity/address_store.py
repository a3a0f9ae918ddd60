"""SQL of the addresses that users have logged in from."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from pilothouse.identity.tables import login_addresses, users

KEPT_MS = 90 * 24 * 3600 * 1000
"""How long an address is known after the last login from it."""

MOST = 50
"""Addresses of one user; the oldest are forgotten first."""


def knows(conn: Connection, username: str, address: str, now: int) -> bool:
    """Whether the user of this name has logged in from this address in the last 90 days."""
    found = (
        select(login_addresses.c.address)
        .join(users, users.c.id == login_addresses.c.user_id)
        .where(
            users.c.username_key == username.casefold(),
            login_addresses.c.address == address,
            login_addresses.c.last_login > now - KEPT_MS,
        )
    )
    return conn.execute(found).first() is not None


def remember(conn: Connection, user_id: str, address: str, now: int) -> None:
    """Record a login; forgets what is too old or too much."""
    of_user = login_addresses.c.user_id == user_id
    same = update(login_addresses).where(of_user, login_addresses.c.address == address)
    if conn.execute(same.values(last_login=now)).rowcount:
        return
    conn.execute(insert(login_addresses).values(user_id=user_id, address=address, last_login=now))
    newest = (
        select(login_addresses.c.address)
        .where(of_user, login_addresses.c.last_login > now - KEPT_MS)
        .order_by(login_addresses.c.last_login.desc(), login_addresses.c.address)
        .limit(MOST)
    )
    kept = conn.execute(newest).scalars().all()
    conn.execute(delete(login_addresses).where(of_user, login_addresses.c.address.not_in(kept)))
