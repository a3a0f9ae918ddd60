"""Alembic migrations: the only code that changes the shape of the database."""

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
    """Bring the database to ``revision``, whole or not at all; does nothing when it is there already.

    Servers that start at the same moment take turns: the transaction is the only one that writes from its
    beginning on (:class:`Database`). Raises :class:`StorageTooNew` when a newer release has written it.
    """
    with database.write_engine.begin() as connection:
        # Alembic finds a transaction under way and leaves its end to us.
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
    """The newest revision this release knows."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["connection"] = connection
    return config
