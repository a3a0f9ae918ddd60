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
