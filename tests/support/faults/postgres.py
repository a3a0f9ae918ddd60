"""Reads a test's PostgreSQL database without the server's code."""

from __future__ import annotations

import json

from support.faults.checker import Entry, Journal
from support.postgres import Postgres


class StoredInPostgres(Journal):
    """The same of a database in PostgreSQL."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        rows = postgres.ask('SELECT "offset", stream, type, data FROM entries ORDER BY "offset"', name)
        self.entries = [Entry(o, stream, type, json.loads(data)) for o, stream, type, data in rows]
        self.next = int(postgres.ask("SELECT next FROM journal_head", name)[0][0])
        self.leases = int(postgres.ask("SELECT count(*) FROM leases", name)[0][0])
        self.ok = "ok"
