"""The version of a database's schema. Alembic is loaded only to change it, where possible in a child process."""

from __future__ import annotations

import gc
import multiprocessing

from sqlalchemy import Connection, inspect, text

from pilothouse.storage.database import Database

NEWEST = "0026"
"""The newest revision in ``migrations/versions``; ``tools/new_migration.py`` writes it."""

_TABLE = "alembic_version"


def ensure_newest(database: Database, *, in_child: bool) -> None:
    """Migrate the database unless its schema is that of this release.

    ``in_child``: by a fork of this process, which must have no other threads; otherwise what Alembic has imported
    (10 MiB) stays in memory. Raises what :func:`pilothouse.storage.migrations.upgrade` raises.
    """
    if _is_newest(database):
        return
    if in_child:
        _upgrade_in_child(database)
    if not in_child or not _is_newest(database):  # if the child has failed, the caller gets the error here
        _upgrade(database)


def stored_version(conn: Connection) -> str | None:
    """The revision that the database is at; ``None`` if it is empty."""
    if not inspect(conn).has_table(_TABLE):
        return None
    version = conn.execute(text(f"SELECT version_num FROM {_TABLE}")).scalar()  # noqa: S608  a constant
    return None if version is None else str(version)


def _is_newest(database: Database) -> bool:
    with database.read() as conn:
        return stored_version(conn) == NEWEST


def _upgrade_in_child(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    child = multiprocessing.get_context("fork").Process(target=_upgrade_at, args=(url,))
    child.start()
    child.join()
    child.close()


def _upgrade_at(url: str) -> None:
    gc.disable()  # what the parent has made is not this process's to destroy
    try:
        _upgrade(Database(url))
    except Exception:
        raise SystemExit(1) from None  # without a traceback on stderr; the parent raises the error


def _upgrade(database: Database) -> None:
    from pilothouse.storage.migrations import upgrade

    upgrade(database)
