"""What an operator does to a server's data directory: rotate its key, give its journal a new epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from pilothouse.secrets import store as secret_store
from pilothouse.secrets.rotation import renew
from pilothouse.server.epoch import new_epoch
from pilothouse.server.graph import KEY_FILE
from pilothouse.server.lock import DataDirLocked, data_dir_lock
from pilothouse.server.settings import Settings
from pilothouse.storage import Database, StorageError, StorageUnavailable, now_ms
from pilothouse.storage.keyring import Keyring, KeyringBox, rotate
from pilothouse.storage.migrations import upgrade
from pilothouse.storage.secretbox import SecretBoxError

SHARED_DELAY = 600
"""Seconds until a new key is used by default, where other servers of the database have to be given it."""


class MaintenanceFailed(Exception):
    """The data directory has no key or no database, or they cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotated key: in use from ``active_from`` (ms); ``renewed``: secrets that were encrypted with it at once."""

    key_id: str
    active_from: int
    renewed: int


def rotate_keys(settings: Settings, active_in: int | None) -> Rotation:
    """Add a new key, in use in ``active_in`` seconds; if that is 0, encrypt all secrets with it.

    The server may run, or not. A process that is killed leaves a key file with all keys that are needed, and
    secrets each encrypted with one of them; a server encrypts the rest. Raises :class:`MaintenanceFailed`.
    """
    path = settings.data_dir / KEY_FILE
    if not path.exists():
        raise MaintenanceFailed(f"there is no {path}: no server was started with this data directory")
    if active_in is None:
        active_in = SHARED_DELAY if settings.database_url else 0
    now = now_ms()
    with _explained():
        key = rotate(path, now + active_in * 1000, now)
        renewed = 0 if active_in else _renew_all(settings, Keyring.load(path))
    return Rotation(key.id.hex(), now + active_in * 1000, renewed)


def begin_epoch(settings: Settings) -> str:
    """Give the journal a new epoch, so that all cursors are refused; the server must not run.

    Raises :class:`MaintenanceFailed`.
    """
    with _explained(), existing_database(settings) as database, data_dir_lock(settings.data_dir):
        upgrade(database)
        return new_epoch(database, settings.data_dir)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except StorageUnavailable as error:
        raise MaintenanceFailed(f"the database says: {error.reason}") from error
    except DBAPIError as error:
        raise MaintenanceFailed(f"the database says: {error.orig}") from error
    except (SecretBoxError, OSError, StorageError, DataDirLocked) as error:
        raise MaintenanceFailed(str(error)) from error


def _renew_all(settings: Settings, keyring: Keyring) -> int:
    box, renewed = KeyringBox(keyring, "secrets"), 0
    with existing_database(settings) as database:
        place: secret_store.Place | None = secret_store.START
        while place is not None:
            with database.write_engine.begin() as conn:
                done = renew(conn, box, place)
            renewed, place = renewed + done.changed, done.then
    return renewed


@contextlib.contextmanager
def existing_database(settings: Settings) -> Iterator[Database]:
    """The server's database, which is not created. Raises :class:`MaintenanceFailed`."""
    url, path = settings.database_url, settings.data_dir / "pilothouse.db"
    if url is None and not path.exists():
        raise MaintenanceFailed(f"there is no {path}: no server was started with this data directory")
    database = Database(url.get_secret_value()) if url else Database.at(path)
    try:
        yield database
    finally:
        database.close()
