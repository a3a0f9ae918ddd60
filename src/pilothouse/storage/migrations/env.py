"""Alembic entry point: runs migrations on the connection of :func:`upgrade`."""

from alembic import context
from sqlalchemy import MetaData

target: MetaData | None = context.config.attributes.get("target_metadata")
if target is not None:
    # Tables name the rows of a partial index for SQLite only: to name them for PostgreSQL loads its dialect, which a
    # server with SQLite does not need.
    for index in [index for table in target.tables.values() for index in table.indexes]:
        if "sqlite_where" in index.dialect_kwargs:
            index.dialect_kwargs["postgresql_where"] = index.dialect_kwargs["sqlite_where"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=target,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
