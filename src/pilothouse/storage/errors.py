"""What can go wrong with the database, each with a stable code."""

from __future__ import annotations


class StorageError(Exception):
    """Base of all storage errors."""

    code = "STORAGE_ERROR"


class StorageBusy(StorageError):
    """The writer's queue is full: the caller should try again later (HTTP 503)."""

    code = "STORAGE_BUSY"


class StorageClosed(StorageError):
    """The writer has been stopped; nothing was written."""

    code = "STORAGE_CLOSED"


class StorageTooNew(StorageError):
    """The database was written by a newer release than this one; it is left untouched."""

    code = "STORAGE_TOO_NEW"


class StorageUrlInvalid(StorageError):
    """What was given as the database's URL is none that we can work with."""

    code = "STORAGE_URL_INVALID"


class StorageUnavailable(StorageError):
    """The database does not answer, or takes nothing: try again shortly (HTTP 503). ``reason`` is the operator's.

    Nothing was written, unless it went away over the commit itself: then all was written, or nothing.
    """

    code = "STORAGE_UNAVAILABLE"

    def __init__(self, reason: str) -> None:
        super().__init__("the database cannot take this now; try again shortly")
        self.reason = reason
