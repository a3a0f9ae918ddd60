"""Errors of the database, each with a stable code."""

from __future__ import annotations


class StorageError(Exception):
    """Base class of storage errors."""

    code = "STORAGE_ERROR"


class StorageBusy(StorageError):
    """The writer's queue is full: the caller should try again later (HTTP 503)."""

    code = "STORAGE_BUSY"


class StorageClosed(StorageError):
    """The writer has been stopped; nothing was written."""

    code = "STORAGE_CLOSED"


class StorageTooNew(StorageError):
    """The database was migrated by a newer release; it is not changed."""

    code = "STORAGE_TOO_NEW"


class StorageUrlInvalid(StorageError):
    """The database URL is invalid or not supported."""

    code = "STORAGE_URL_INVALID"


class StorageUnavailable(StorageError):
    """The database cannot be read or written: try again shortly (HTTP 503). ``reason`` is for the operator.

    Nothing was written; if the connection broke during the commit, either everything or nothing was written.
    """

    code = "STORAGE_UNAVAILABLE"

    def __init__(self, reason: str) -> None:
        super().__init__("the database cannot take this now; try again shortly")
        self.reason = reason
