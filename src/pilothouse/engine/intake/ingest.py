"""Stores log lines and events that agents push about their attempts, exactly once, in order, and with fsync.

Implements the gateway rules of decisions.md: sequence numbers strictly increase per agent and RPC; duplicates have no
effect; another id under a known number is refused; a gap in the log stream is marked, a gap in the event stream is
refused.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection

from pilothouse.engine import store
from pilothouse.engine.intake.batches import MAX_ID, BatchInvalid, RawBatch
from pilothouse.engine.intake.events import StepEvent
from pilothouse.engine.intake.lines import LogLines
from pilothouse.engine.intake.maskers import HIDDEN
from pilothouse.engine.intake.quotas import DELETED, ENTRY, IntakeQuotas, size_of
from pilothouse.engine.intake.reading import Reading
from pilothouse.engine.intake.step_events import StepEvents
from pilothouse.engine.runs import read_place
from pilothouse.engine.standing import run_keys
from pilothouse.engine.tasks import StepTasks
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.earlier_store import seen_earlier
from pilothouse.journal import Journal
from pilothouse.storage import Storage, StorageUnavailable, Tx
from pilothouse.wire import entries
from pilothouse.workers.errors import WorkError

LOGS, EVENTS = "PushLogs", "PushEvents"
MAX_TARGETS = 4096
KEPT_SEQS = 10_000
NOTHING = -1
"""No batch is on its way before this one."""
NOWHERE = 0
"""The agent has not said after which number its counting begins."""
BEGIN = "begin"
"""In place of a batch id: the number after which an agent said that its counting begins."""
RELOAD = 30.0
"""Seconds after which the secrets of a target are looked up again: another server may have changed them."""
log = structlog.get_logger("engine.intake")


class Taken(StrEnum):
    """The result of a batch."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    REJECTED = "rejected"
    OUT_OF_ORDER = "out_of_order"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to one batch; ``expected``: the next expected sequence number."""

    taken: Taken
    expected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of an attempt's lines, and the secret values to mask in them; ``started_at`` in ms."""

    stream: str
    scope: str
    keys: dict[str, Any]
    agent_id: str
    values: frozenset[str]
    secrets_changed: int
    loaded_at: float
    started_at: int = 0


class Ingest:
    """Stores what agents push."""

    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        tasks: StepTasks,
        events: StepEvents,
        reading: Reading,
        quotas: IntakeQuotas,
    ) -> None:
        self._storage = storage
        self._journal = journal
        self._tasks = tasks
        self._events = events
        self._reading = reading
        self._quotas = quotas
        self._targets: OrderedDict[str, Target] = OrderedDict()

    async def logs(
        self,
        agent_id: str,
        batch: LogLines,
        target: Target | None,
        after: int = NOTHING,
        begins: int = NOWHERE,
    ) -> Receipt:
        """Commit one batch of lines; returns when it is on disk.

        ``target``: from :meth:`target`. ``after``: the number of the previous batch if that is in flight; if that
        one is not stored, this one fails too, since it would leave a gap. ``begins``: the number after which counting
        begins, if this is the first batch since the agent registered. Nothing is awaited before the batch is in
        the writer's queue, so batches are stored in the order of the calls.
        """
        if target is None or target.agent_id != agent_id:
            message = f"step run {batch.step_run_id!r} is not this agent's"
            return await self.reject(agent_id, LOGS, batch.seq, batch.batch_id, message, after)
        if not batch.masked:
            [batch] = await self._reading.masked(agent_id, [batch], target.values)
        return await self._storage.write(lambda tx: self._append(tx, agent_id, target, batch, after, begins))

    async def read(
        self, agent_id: str, batch: RawBatch, target: Target, waiting: Sequence[LogLines]
    ) -> tuple[list[LogLines], list[LogLines]]:
        """The batches to be stored now, and those that wait (:meth:`Reading.batch`)."""
        return await self._reading.batch(agent_id, batch, target.values, waiting)

    async def masked(self, agent_id: str, batches: Sequence[LogLines]) -> list[LogLines]:
        """Batches of one step that need not wait any longer, as they may be stored."""
        target = await self.target(batches[0].step_run_id)
        return await self._reading.masked(agent_id, batches, target.values if target else frozenset())

    async def screened(self, agent_id: str, task_id: str, texts: Sequence[str], most: int) -> list[str]:
        """See :class:`pilothouse.fleet.handlers.Screen`: HIDDEN in place of texts that cannot be masked now."""
        values = await self._values_of(agent_id) if any(texts) and not task_id else frozenset[str]()
        if any(texts) and 0 < len(task_id) <= MAX_ID:
            target = await self.target(task_id)
            if target is not None and target.agent_id == agent_id:
                values = target.values  # otherwise of another kind of work, or to be refused
        try:
            return await self._reading.texts(agent_id, texts, most, values)
        except (BatchInvalid, WorkError) as error:
            log.warning("engine.report_hidden", agent_id=agent_id, step_run_id=task_id, why=str(error))
            return [HIDDEN if text else text for text in texts]

    async def event(self, agent_id: str, event: StepEvent, begins: int = NOWHERE) -> Receipt:
        """Commit one event; returns when it is on disk. ``begins``: as in :meth:`logs`."""
        target = await self.target(event.step_run_id) if event.step_run_id else None
        if event.step_run_id and (target is None or target.agent_id != agent_id):
            message = f"step run {event.step_run_id!r} is not this agent's"
            return await self.reject(agent_id, EVENTS, event.seq, event.event_id, message)
        values = target.values if target is not None else await self._values_of(agent_id)
        try:
            shown, refused = await self._reading.event(agent_id, event, values)
        except BatchInvalid as error:
            return await self.reject(agent_id, EVENTS, event.seq, event.event_id, str(error))
        stream = target.stream if target is not None else entries.agent_stream(agent_id)
        size = ENTRY + len(orjson.dumps(shown.payload))

        since = target.started_at if target is not None else 0

        def use_case(tx: Tx) -> Receipt:
            receipt = self._sequence(
                tx, agent_id, EVENTS, event.seq, event.event_id, begins=begins, since=since
            )
            if receipt is not None:
                return receipt
            why = refused or self._quotas.event_refused(tx.conn, stream, size)
            why = why or self._events.take(tx, agent_id, shown)
            return Receipt(Taken.REJECTED if why else Taken.ACCEPTED, event.seq + 1, why)

        return await self._storage.write(use_case)

    async def _values_of(self, agent_id: str) -> frozenset[str]:
        """The secrets of all work that the agent holds, and that we remember, for what it says of itself: many may
        read it."""
        held = await self._storage.read(lambda conn: fleet_store.leases_of(conn, agent_id))
        for lease in held:
            await self.target(lease.id)
        return frozenset().union(*(one.values for one in self._targets.values() if one.agent_id == agent_id))

    async def reject(
        self, agent_id: str, rpc: str, seq: int, batch_id: str, message: str, after: int = NOTHING
    ) -> Receipt:
        """Refuse a batch with invalid contents; its sequence number is still consumed."""

        def use_case(tx: Tx) -> Receipt:
            last = fleet_store.last_seq(tx.conn, agent_id, rpc)
            _check_arrived(after, last)
            receipt = self._sequence(tx, agent_id, rpc, seq, batch_id, last)
            return receipt or Receipt(Taken.REJECTED, seq + 1, message)

        return await self._storage.write(use_case)

    async def last_seq(self, agent_id: str, rpc: str) -> int:
        """The highest sequence number stored; -1 before the first."""
        return await self._storage.read(lambda conn: fleet_store.last_seq(conn, agent_id, rpc))

    async def target(self, step_run_id: str) -> Target | None:
        """The target of an attempt, cached."""
        known = self._targets.get(step_run_id)
        if known is None or self._outdated(known):
            known = await self._storage.read(lambda conn: self._load_target(conn, step_run_id))
            if known is not None:
                self._targets[step_run_id] = known
                if len(self._targets) > MAX_TARGETS:
                    self._targets.popitem(last=False)
        return known

    def _load_target(self, conn: Connection, step_run_id: str) -> Target | None:
        at = read_place(conn, step_run_id)
        if at is None or not at.attempt.agent_id or store.is_pruned(conn, at.run.id):
            return None
        keys = run_keys(at.run, at.job, at.step)
        keys["step_run_id"], keys["attempt"] = at.attempt.id, at.attempt.number
        keys["agent_id"] = at.attempt.agent_id
        changed = self._tasks.secrets_changed()
        values = self._tasks.mask_values(conn, at)
        return Target(
            stream=entries.run_stream(at.run.id),
            scope=entries.project_scope(at.run.project),
            keys=keys,
            agent_id=at.attempt.agent_id,
            values=values,
            secrets_changed=changed,
            loaded_at=time.monotonic(),
            started_at=at.attempt.started_at,
        )

    def _outdated(self, target: Target) -> bool:
        """Whether the secrets may have changed since, on this or another server."""
        if target.secrets_changed != self._tasks.secrets_changed():
            return True
        return bool(target.values) and time.monotonic() - target.loaded_at > RELOAD

    # -- in the transaction -----------------------------------------------------------------------------

    def _append(
        self, tx: Tx, agent_id: str, target: Target, batch: LogLines, after: int, begins: int
    ) -> Receipt:
        lines = batch.lines
        last = fleet_store.last_seq(tx.conn, agent_id, LOGS)
        _check_arrived(after, last)
        since = target.started_at
        receipt = self._sequence(
            tx, agent_id, LOGS, batch.seq, batch.batch_id, last, begins=begins, since=since
        )
        if receipt is not None:
            return receipt
        expected = max(last + 1 if last >= 0 else begins + 1, 1)
        gap, cuts = batch.seq > expected and (last >= 0 or bool(begins)), chunks(lines)
        refused = self._quotas.log_refused(tx.conn, target.stream, size_of(batch, len(cuts) + gap))
        if refused is not None:
            if refused != DELETED and self._quotas.first_refusal(tx.conn, batch.step_run_id):
                self._mark(tx, target, f"lines from here on are not stored: {refused}", expected, batch.seq)
            return Receipt(Taken.ACCEPTED, batch.seq + 1)
        if gap:
            self._mark_gap(tx, target, expected, batch.seq)
        first = store.count_lines(tx.conn, batch.step_run_id, len(lines)) - len(lines) + 1
        for start, stop in cuts:
            body = {**target.keys, "first": first + start, "lines": lines[start:stop]}
            if batch.stderr:
                body["stderr"] = [i - start for i in batch.stderr if start <= i < stop]
            if batch.levels:
                body["levels"] = {str(i - start): v for i, v in batch.levels.items() if start <= i < stop}
            if batch.plugin:
                body["plugin"] = batch.plugin
            self._journal.append(
                tx, target.stream, entries.STEP_LOGGED, target.scope, body, subject=batch.step_run_id
            )
        return Receipt(Taken.ACCEPTED, batch.seq + 1)

    def _sequence(
        self,
        tx: Tx,
        agent_id: str,
        rpc: str,
        seq: int,
        batch_id: str,
        last: int | None = None,
        *,
        begins: int = NOWHERE,
        since: int = 0,
    ) -> Receipt | None:
        """Check a sequence number and store it; ``None`` if the batch should be stored.

        The first number since the agent registered is where counting begins, unless it says otherwise (``begins``).
        ``since`` (ms): when the step run started; what the agent pushed for it before it registered anew is known.
        """
        if last is None:
            last = fleet_store.last_seq(tx.conn, agent_id, rpc)
        # An id may hold a secret, and be long. Earlier releases stored it as it was.
        key = hashlib.sha256(batch_id.encode("utf-8", "surrogatepass")).hexdigest()
        if seq <= last:
            return self._known(tx, agent_id, rpc, seq, last, (key, batch_id))
        first = last < 0
        if first and begins:
            last = begins
            if seq <= last:
                return Receipt(Taken.OUT_OF_ORDER, last + 1, f"sequence number {seq} is not after {last}")
        if rpc == EVENTS and not (first and not begins) and seq > max(last + 1, 1):
            return Receipt(Taken.OUT_OF_ORDER, max(last + 1, 1), f"sequence number {seq} leaves a gap")
        if first and begins:
            fleet_store.mark_seen(tx.conn, agent_id, rpc, begins, BEGIN)
        fleet_store.mark_seen(tx.conn, agent_id, rpc, seq, key)
        if seq // KEPT_SEQS != last // KEPT_SEQS:  # numbers may be passed over
            fleet_store.forget_seen(tx.conn, agent_id, rpc, seq - KEPT_SEQS)
        if seen_earlier(tx.conn, agent_id, rpc, key, since):
            return Receipt(Taken.REPEATED, seq + 1)
        return None

    def _known(self, tx: Tx, agent_id: str, rpc: str, seq: int, last: int, ids: tuple[str, str]) -> Receipt:
        """The answer to a number that is not above the last one."""
        seen = fleet_store.seen_batch(tx.conn, agent_id, rpc, seq)
        if seen in ids or (seen is None and seq <= last - KEPT_SEQS):
            return Receipt(Taken.REPEATED, last + 1)
        if seen is not None and seen != BEGIN:
            return Receipt(Taken.OUT_OF_ORDER, last + 1, f"sequence number {seq} was used with another id")
        if seen is None and rpc == LOGS and fleet_store.seen_below(tx.conn, agent_id, rpc, seq):
            return Receipt(Taken.REPEATED, last + 1)  # inside a gap that was marked
        return Receipt(Taken.OUT_OF_ORDER, last + 1, f"sequence number {seq} is before the first one")

    def _mark_gap(self, tx: Tx, target: Target, expected: int, seq: int) -> None:
        missing = f"{expected}" if seq - expected == 1 else f"{expected} to {seq - 1}"
        message = f"log batches {missing} of agent {target.agent_id} never arrived"
        self._mark(tx, target, message, expected, seq)

    def _mark(self, tx: Tx, target: Target, message: str, expected: int, seq: int) -> None:
        body = {**target.keys, "message": message, "expected_seq": expected, "seq": seq}
        subject = target.keys["step_run_id"]
        self._journal.append(tx, target.stream, entries.STEP_LOG_MISSED, target.scope, body, subject=subject)


def chunks(lines: list[str]) -> list[tuple[int, int]]:
    """Divide lines into chunks of at most CHUNK_LINES and about CHUNK_BYTES: ``(start, stop)`` pairs."""
    if len(lines) <= entries.CHUNK_LINES and sum(map(_bytes, lines)) <= entries.CHUNK_BYTES:
        return [(0, len(lines))] if lines else []
    cuts: list[tuple[int, int]] = []
    start = size = 0
    for index, line in enumerate(lines):
        length = _bytes(line)
        if index > start and (index - start >= entries.CHUNK_LINES or size + length > entries.CHUNK_BYTES):
            cuts.append((start, index))
            start, size = index, 0
        size += length
    cuts.append((start, len(lines)))
    return cuts


def _check_arrived(after: int, last: int) -> None:
    if last < after:
        raise StorageUnavailable(f"batch {after}, on its way before this one, was not stored")


def _bytes(line: str) -> int:
    return len(line) if line.isascii() else len(line.encode())
