"""Engines for PostgreSQL: one writer at a time among all servers, with timeouts for everything."""

from __future__ import annotations

from typing import Any

from psycopg.types.string import StrDumperUnknown
from sqlalchemy import URL, Connection, Engine, create_engine, event

NETWORK = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Detection of dead connections: seconds to connect, seconds of silence, retries, and ms for unacknowledged
data."""
STANDS_STILL_AFTER = 20
"""Seconds of inactivity in a transaction after which PostgreSQL rolls it back."""
WAITS_AT_MOST = 30
"""Seconds that a transaction waits for the write lock; longer than the limit for an idle transaction."""

_LOCK = 0x70696C6F74  # "pilot": the key of the writers' advisory lock


def engine(url: URL, *, connections: int, **options: Any) -> Engine:
    """An engine with this many connections, each tested before it is reused."""
    made = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,  # in errors and logs: they may be secret
        connect_args={name: value for name, value in NETWORK.items() if name not in url.query},
        **options,
    )

    @event.listens_for(made, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.adapters.register_dumper(str, _WithoutNul)

    return made


def one_at_a_time(engine: Engine) -> None:
    """Serialize the transactions of all servers with an advisory lock.

    Use cases rely on what they have read, and journal offsets are in commit order; on SQLite the file lock
    ensures both. The lock is released at the end of the transaction or the connection. A server that is idle
    in a transaction loses its connection, so that it does not block the others.
    """

    @event.listens_for(engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{STANDS_STILL_AFTER}s'")
            cursor.execute(f"SET lock_timeout = '{WAITS_AT_MOST}s'")
        connection.commit()

    @event.listens_for(engine, "begin")
    def _wait(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


class _WithoutNul(StrDumperUnknown):
    """PostgreSQL texts cannot contain NUL, but input can: it is stored as U+FFFD."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)
