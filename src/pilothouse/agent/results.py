"""Stores the results of steps on disk, from the end of a step until the server has acknowledged the result.

One append-only file of records: a result, or the id of an acknowledged result. Records are written to the operating
system immediately, so they survive the agent. fsync is only called if the server has not acknowledged a result within
`SYNC_AFTER`; several results share one fsync.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from pilothouse.agent.spool import frame, unframe

COMPACT_AT = 4 << 20  # bytes of file
SYNC_AFTER = 0.05  # seconds

log = structlog.get_logger("agent.results")


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended. Times in Unix seconds.

    `last_log`, `last_event`: its last records in the spool, which must be acknowledged before; -1 for none.
    """

    step_run_id: str
    status: str
    exit_code: int
    error: str
    started_at: int
    ended_at: int
    last_log: int = -1
    last_event: int = -1


_TYPES = {
    "step_run_id": str,
    "status": str,
    "exit_code": int,
    "error": str,
    "started_at": int,
    "ended_at": int,
    "last_log": int,
    "last_event": int,
}


class ResultStore:
    """`unsettled`: results without acknowledgement, by step run id, in order of time. Opening compacts the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self.unsettled = _load(path)
        self._file = -1
        self._compact()
        self._sync_due: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Task[None] | None = None

    def put(self, result: Result) -> None:
        """Store a result. If the disk is full, this is logged and the result is only kept in memory."""
        self.unsettled[result.step_run_id] = result
        self._append(orjson.dumps(asdict(result)))
        if self._sync_due is None and self._syncing is None:
            self._sync_due = asyncio.get_running_loop().call_later(SYNC_AFTER, self._start_sync)

    def settle(self, step_run_id: str) -> None:
        """Remove a result that the server has acknowledged."""
        if self.unsettled.pop(step_run_id, None) is not None:
            self._append(orjson.dumps({"settled": step_run_id}))

    async def close(self) -> None:
        """Close the file; unacknowledged results are on disk when this returns."""
        if self._syncing is not None:
            await self._syncing
        if self._sync_due is not None:
            self._sync_due.cancel()
        if self.unsettled:
            await asyncio.to_thread(os.fsync, self._file)
        os.close(self._file)

    def _append(self, payload: bytes) -> None:
        record = frame(payload)
        try:
            written = os.pwrite(self._file, record, self._size)
        except OSError as error:
            log.error("spool.result_not_written", reason=error.strerror)
            return
        if written < len(record):
            os.ftruncate(self._file, self._size)
            log.error("spool.result_not_written", reason="the disk is full")
            return
        self._size += written
        if self._size > self._compact_at and self._syncing is None:
            try:
                self._compact()
            except OSError as error:
                self._compact_at *= 2
                log.error("spool.results_not_compacted", reason=error.strerror)

    def _start_sync(self) -> None:
        self._sync_due = None
        if self.unsettled:
            self._syncing = asyncio.create_task(self._sync())

    async def _sync(self) -> None:
        size = self._size
        try:
            await asyncio.to_thread(os.fsync, self._file)
        except OSError as error:
            log.error("spool.result_not_synced", reason=error.strerror)
        self._syncing = None
        if self._size != size:  # records were added during the fsync
            self._sync_due = asyncio.get_running_loop().call_later(SYNC_AFTER, self._start_sync)

    def _compact(self) -> None:
        """Write a new file with the unacknowledged results."""
        draft = self._path.with_name(f".{self._path.name}.new")
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        data = b"".join(frame(orjson.dumps(asdict(result))) for result in self.unsettled.values())
        os.pwrite(file, data, 0)
        os.fsync(file)
        os.replace(draft, self._path)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, len(data)
        self._compact_at = max(COMPACT_AT, 2 * len(data))


def _load(path: Path) -> dict[str, Result]:
    found: dict[str, Result] = {}
    data = path.read_bytes() if path.exists() else b""
    for payload, _ in unframe(data):
        try:
            record = orjson.loads(payload)
            if "settled" in record:
                found.pop(record["settled"], None)
            else:
                found[record["step_run_id"]] = _result(record)
        except (ValueError, TypeError, AttributeError):  # written by another version, or not a result
            log.warning("spool.result_unreadable", path=str(path), bytes=len(payload))
    return found


def _result(record: dict[str, Any]) -> Result:
    """Decode a record, ignoring keys added by newer agents. Raises TypeError."""
    known = {name: value for name, value in record.items() if name in _TYPES}
    if any(type(value) is not _TYPES[name] for name, value in known.items()):
        raise TypeError("a field is not of its type")
    return Result(**known)
