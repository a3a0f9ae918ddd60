"""A database that does not answer is one kind of error, whichever it is and in whose words its driver says so."""

from __future__ import annotations

import time

import structlog
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError, PendingRollbackError

from pilothouse.storage.errors import StorageUnavailable

log = structlog.get_logger("storage")


def translate(engine: Engine) -> None:
    """Let the engine raise :class:`StorageUnavailable` for whatever is not the fault of a statement."""

    @event.listens_for(engine, "handle_error")
    def _translate(context: ExceptionContext) -> None:
        if context.is_pre_ping:
            return  # the pool takes another connection
        if context.is_disconnect or isinstance(context.sqlalchemy_exception, OperationalError):
            raise _unavailable(context.original_exception)


def told(engine: Engine, error: BaseException) -> BaseException:
    """What befell a transaction, as callers know it; for statements that went to the driver itself."""
    driver = engine.dialect.loaded_dbapi
    lost = (driver.OperationalError, driver.InterfaceError, PendingRollbackError)
    return _unavailable(error) if isinstance(error, lost) else error


def _unavailable(error: BaseException) -> StorageUnavailable:
    # The reason is for the operator: it may name hosts and files.
    reason = (str(error).splitlines() or [repr(error)])[0]
    if _news.tells(reason):
        log.warning("storage.unavailable", reason=reason)
    return StorageUnavailable(reason)


class _News:
    """A thousand callers may meet the same outage: it is told once a second."""

    def __init__(self) -> None:
        self._last = ("", 0.0)

    def tells(self, reason: str) -> bool:
        now = time.monotonic()
        if self._last[0] == reason and now - self._last[1] < 1:
            return False
        self._last = (reason, now)
        return True


_news = _News()
