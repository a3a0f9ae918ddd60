"""Appending entries in the transaction of the change that they describe."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection

from pilothouse.journal import store
from pilothouse.journal.feed import Feed
from pilothouse.journal.model import Entry, kept_json
from pilothouse.storage import Database, Tx


class Journal:
    """The journal of one database: appends entries in transactions, publishes them to its :class:`Feed` after
    commits."""

    def __init__(self, database: Database) -> None:
        with database.write_engine.begin() as conn:
            store.create_head(conn, secrets.token_hex(4))
            self.epoch = store.epoch(conn)
            following = store.next_offset(conn)
        self.feed = Feed(database, self.epoch, following)

    def append(
        self, tx: Tx, stream: str, type: str, scope: str, body: dict[str, Any], *, subject: str = ""
    ) -> None:
        """Write one entry in the transaction.

        ``stream`` is ``run/<id>``, ``agent/<id>``, …; ``type`` dotted past tense; ``scope`` determines who
        may read it; ``body`` holds everything that projections need (see ``wire/entries.py``).
        """
        tx.stage(Entry(0, stream, subject, type, tx.now, scope, kept_json(body), body))

    def forget(self, tx: Tx, stream: str, below: int) -> int:
        """Retention: delete a stream's entries below an offset; older cursors of that stream then get 410."""
        return store.forget(tx.conn, stream, min(below, store.next_offset(tx.conn)))

    # -- CommitHook -------------------------------------------------------------------------------------

    def prepare(self, conn: Connection, staged: list[Entry]) -> list[Entry]:
        """Number and store the staged entries, at the end of the transaction."""
        offset = store.reserve(conn, len(staged))
        for entry in staged:
            entry.offset = offset
            offset += 1
        store.append(conn, staged)
        return staged

    def publish(self, prepared: list[Entry]) -> None:
        """Publish committed entries to the feed."""
        self.feed.publish(prepared)
