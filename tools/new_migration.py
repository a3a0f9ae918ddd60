"""Generate a migration from the difference between the models and the newest revision.

    python tools/new_migration.py "what changes"

Also names it in storage/schema.py as the newest. Review the generated file before committing it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from alembic import command

from pilothouse.server import graph  # noqa: F401  (imports every package's tables)
from pilothouse.storage import Database, metadata
from pilothouse.storage.migrations import _config, upgrade

STORAGE = Path(__file__).parents[1] / "src/pilothouse/storage"


def main() -> None:
    """Upgrade an empty database, compare it with the models, write the file."""
    message = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        database = Database.at(Path(folder) / "empty.db")
        upgrade(database)
        with database.write_engine.connect() as connection:
            config = _config(connection)
            config.attributes["target_metadata"] = metadata
            made = _next()
            command.revision(config, message, autogenerate=True, rev_id=made)
        database.close()
    schema = STORAGE / "schema.py"
    schema.write_text(
        re.sub(r'^NEWEST = ".*"$', f'NEWEST = "{made}"', schema.read_text(), flags=re.MULTILINE)
    )


def _next() -> str:
    return f"{len(list((STORAGE / 'migrations/versions').glob('[0-9]*.py'))) + 1:04d}"


main()
