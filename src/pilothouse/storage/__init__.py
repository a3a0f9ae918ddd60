"""The database: engines, the writer thread with group commit, migrations."""

from pilothouse.storage.database import Database, driver, metadata, now_ms
from pilothouse.storage.errors import (
    StorageBusy,
    StorageClosed,
    StorageError,
    StorageTooNew,
    StorageUnavailable,
    StorageUrlInvalid,
)
from pilothouse.storage.handle import Storage
from pilothouse.storage.prepared import Prepared
from pilothouse.storage.writer import CommitHook, Tx, Writer

__all__ = [
    "CommitHook",
    "Database",
    "Prepared",
    "Storage",
    "StorageBusy",
    "StorageClosed",
    "StorageError",
    "StorageTooNew",
    "StorageUnavailable",
    "StorageUrlInvalid",
    "Tx",
    "Writer",
    "driver",
    "metadata",
    "now_ms",
]
