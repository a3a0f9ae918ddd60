"""Alembic migrations: the only code that changes the schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from pilothouse.storage.database import Database
from pilothouse.storage.errors import StorageTooNew

HERE = Path(__file__).parent


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate the database to ``revision`` in one transaction; does nothing if it is already there.

    Servers that start at the same time wait for each other, since write transactions exclude each other
    (:class:`Database`). Raises :class:`StorageTooNew` if a newer release has migrated it.
    """
    with database.write_engine.begin() as connection:
        # Alembic finds an open transaction and does not commit it.
        config = _config(connection)
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            if "Can't locate revision" in str(error):
                raise StorageTooNew(
                    "this database was written by a newer release of Pilothouse; install that release"
                ) from error
            raise


def head() -> str:
    """The newest revision of this release."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["connection"] = connection
    return config
