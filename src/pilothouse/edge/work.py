"""Refusals of requests whose job in the worker pool has failed."""

from __future__ import annotations

import structlog

from pilothouse.access.errors import Refusal
from pilothouse.workers.errors import (
    Abandoned,
    Crashed,
    OutOfMemory,
    PoolClosed,
    QueueFull,
    TimedOut,
    TooLarge,
    WorkError,
)

log = structlog.get_logger("workers")

WORK_ERRORS = ("CALLER_QUEUE_FULL", "SERVER_BUSY", "WORKER_CRASHED")
"""The codes of requests that were not processed, whatever their input."""

RETRY_AFTER = 1
"""Seconds after which a caller may try again when a queue was full."""


def refusal(error: WorkError) -> Refusal:
    """The refusal of the request. Jobs that failed for other reasons than their input are logged."""
    match error:
        case QueueFull(bound="caller"):
            return _later(
                "CALLER_QUEUE_FULL", "Too many requests of yours wait for a worker; try again shortly"
            )
        case QueueFull() | PoolClosed() | Abandoned():  # of the last, nobody reads the answer
            return _later("SERVER_BUSY", "Too many requests wait for a worker; try again shortly")
        case TimedOut() | TooLarge() | OutOfMemory(limit="job"):
            return Refusal.of("INPUT_TOO_COSTLY", f"This input is too costly to process: {error}")
        case OutOfMemory() | Crashed():
            log.warning("workers.crashed", code=error.code, error=str(error))
            return Refusal.of("WORKER_CRASHED", f"This was not processed: {error}")
        case _:
            log.error("workers.job_failed", code=error.code, error=str(error))
            return Refusal.of("INTERNAL_ERROR", "Something went wrong on the server; the request id names it")


def _later(code: str, message: str) -> Refusal:
    extra = {"retry_after": RETRY_AFTER} if code == "CALLER_QUEUE_FULL" else None
    return Refusal(message, code=code, headers={"Retry-After": str(RETRY_AFTER)}, extra=extra)
