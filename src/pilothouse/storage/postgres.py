"""Engines for PostgreSQL: one writer at a time among all servers, and nothing that hangs for ever."""

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
"""A server that is gone without a word is noticed: seconds to connect, silence, retries, and ms for what was sent."""
STANDS_STILL_AFTER = 20
"""Seconds without a word in the middle of a transaction, after which PostgreSQL undoes it."""
WAITS_AT_MOST = 30
"""Seconds that a transaction waits for its turn; longer than it takes to be rid of one that stands still."""

_LOCK = 0x70696C6F74  # "pilot": the key of the writers' advisory lock


def engine(url: URL, *, connections: int, **options: Any) -> Engine:
    """An engine with so many connections, each tested before it is used again."""
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
    """Let every transaction wait, when it begins, until none of any server is under way.

    Use cases read and then write, and the journal's offsets are those of the commits: both as on SQLite, where a
    writer locks the file. The lock ends with the transaction, and that with its connection. A server that stands
    still in the middle loses its connection, so that it does not hold up the others.
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
    """PostgreSQL's texts cannot hold NUL. Somebody's input can: nothing is found by it, and U+FFFD is stored."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)
