"""Translates the drivers' errors of an unavailable database into :class:`StorageUnavailable`."""

from __future__ import annotations

import time

import structlog
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError, PendingRollbackError

from pilothouse.storage.errors import StorageUnavailable

log = structlog.get_logger("storage")


def translate(engine: Engine) -> None:
    """Make the engine raise :class:`StorageUnavailable` for errors that are not caused by a statement."""

    @event.listens_for(engine, "handle_error")
    def _translate(context: ExceptionContext) -> None:
        if context.is_pre_ping:
            return  # the pool retries with another connection
        if context.is_disconnect or isinstance(context.sqlalchemy_exception, OperationalError):
            raise _unavailable(context.original_exception)


def translated(engine: Engine, error: BaseException) -> BaseException:
    """Translate an error of a transaction; for statements that were run directly on the driver."""
    driver = engine.dialect.loaded_dbapi
    lost = (driver.OperationalError, driver.InterfaceError, PendingRollbackError)
    return _unavailable(error) if isinstance(error, lost) else error


def _unavailable(error: BaseException) -> StorageUnavailable:
    # The reason is for the operator only: it can contain hosts and files.
    reason = (str(error).splitlines() or [repr(error)])[0]
    if _throttle.allows(reason):
        log.warning("storage.unavailable", reason=reason)
    return StorageUnavailable(reason)


class _LogThrottle:
    """Limits the log to one line per second, since many callers can hit the same outage."""

    def __init__(self) -> None:
        self._last = ("", 0.0)

    def allows(self, reason: str) -> bool:
        now = time.monotonic()
        if self._last[0] == reason and now - self._last[1] < 1:
            return False
        self._last = (reason, now)
        return True


_throttle = _LogThrottle()
