"""How much agents may push into the journal: bytes of the log and of the events of each run, and of an agent itself.

Without a bound, a step that prints without end or a hostile agent fills the disk. Counted are the bytes of lines and
payloads, and some for each entry (:data:`ENTRY`).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Table, Text, delete, select, text

from pilothouse.access.quotas import Quotas
from pilothouse.engine.intake.lines import LogLines
from pilothouse.fleet import store as fleet_store
from pilothouse.journal import Journal
from pilothouse.journal import store as journal_store
from pilothouse.storage import Storage, Tx, metadata
from pilothouse.wire import entries

ENTRY = 512
"""Bytes of an entry besides its contents: ids and names."""
MAX_AGENT_ENTRIES = 10_000
"""Entries of an agent's own stream that are kept, the newest ones; at most ``quota_agent_events`` bytes of them."""
CLOSED = 1 << 62
"""The bytes of a run that takes nothing more, because its log was deleted."""
DELETED = "the log of the run was deleted"

intake_sizes = Table(
    "intake_sizes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)

_ADD = text(
    "INSERT INTO intake_sizes (name, bytes) VALUES (:name, :more) "
    "ON CONFLICT (name) DO UPDATE SET bytes = intake_sizes.bytes + excluded.bytes RETURNING bytes"
)
_SET = text(
    "INSERT INTO intake_sizes (name, bytes) VALUES (:name, :bytes) "
    "ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes"
)


class IntakeQuotas:
    """The sizes are in the database; methods that take a ``tx`` or ``conn`` are called in the writer."""

    def __init__(self, storage: Storage, journal: Journal, quotas: Quotas) -> None:
        self._storage = storage
        self._journal = journal
        self._quotas = quotas

    def log_refused(self, conn: Connection, stream: str, size: int) -> str | None:
        """Count ``size`` bytes of the log of a run; why they are not stored, ``None`` if they are."""
        return self._refused(conn, stream, size, self._quotas.run_log, "run_log", "log of the run")

    def event_refused(self, conn: Connection, stream: str, size: int) -> str | None:
        """Likewise of an event, of a run or of an agent itself."""
        if stream.startswith("agent/"):
            most, setting, what = self._quotas.agent_events, "agent_events", "events of the agent"
        else:
            most, setting, what = self._quotas.run_events, "run_events", "events of the run"
            stream = _events(stream)
        return self._refused(conn, stream, size, most, setting, what)

    def first_refusal(self, conn: Connection, attempt_id: str) -> bool:
        """Whether this is the first refusal of lines of this attempt, which is marked in its log."""
        return _add(conn, f"cut/{attempt_id}", 1) == 1

    def close(self, conn: Connection, run_id: str) -> None:
        """The log of the run was deleted: what its agents still send is not stored."""
        stream = entries.run_stream(run_id)
        for name in (stream, _events(stream)):
            conn.execute(_SET, {"name": name, "bytes": CLOSED})

    async def prune_agents(self) -> None:
        """Delete what is too much of the agents' own streams, oldest first. To be called every few minutes."""
        for agent in await self._storage.read(fleet_store.all_agents):
            await self._prune(entries.agent_stream(agent.agent_id))

    async def _prune(self, stream: str) -> None:
        most, size = MAX_AGENT_ENTRIES, self._quotas.agent_events
        below = await self._storage.read_much(lambda conn: journal_store.excess(conn, stream, most, size))

        def use_case(tx: Tx) -> None:
            if below:
                self._journal.forget(tx, stream, below)
            tx.conn.execute(delete(intake_sizes).where(intake_sizes.c.name == stream))

        if below or await self._storage.read(lambda conn: _size(conn, stream)):
            await self._storage.write(use_case)

    def _refused(
        self, conn: Connection, name: str, size: int, most: int, setting: str, what: str
    ) -> str | None:
        total = _add(conn, name, size)
        if total >= CLOSED:
            return DELETED
        if total > most:
            return f"the {what} may have {most} bytes (PILOT_QUOTA_{setting.upper()})"
        return None


def size_of(batch: LogLines, chunks: int) -> int:
    """The bytes that a batch of lines counts, which become so many entries."""
    size = sum(len(line) if line.isascii() else len(line.encode()) for line in batch.lines)
    return size + len(batch.lines) + 8 * len(batch.stderr) + 32 * len(batch.levels) + ENTRY * chunks


def _events(stream: str) -> str:
    return f"{stream}/events"


def _add(conn: Connection, name: str, more: int) -> int:
    return int(conn.execute(_ADD, {"name": name, "more": more}).scalar_one())


def _size(conn: Connection, name: str) -> int:
    found = conn.execute(select(intake_sizes.c.bytes).where(intake_sizes.c.name == name)).scalar_one_or_none()
    return found or 0
