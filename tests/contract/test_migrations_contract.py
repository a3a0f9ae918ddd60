"""Migrations on both databases: the schema is that of the tables, old databases open, newer ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, func, insert, select, text

import pilothouse.server.graph  # noqa: F401  every package's tables
from pilothouse.blobs import store as blob_store
from pilothouse.engine import run_counts
from pilothouse.engine import store as engine_store
from pilothouse.engine.run_counts import RunCounts
from pilothouse.fleet import store as fleet_store
from pilothouse.secrets import store as secret_store
from pilothouse.storage import Database, StorageTooNew, metadata, migrations
from pilothouse.storage.migrations import upgrade
from pilothouse.storage.schema import NEWEST, ensure_newest, stored_version
from support.databases import Backend
from support.journals import appending, blob, stored, writing


def test_the_migrated_schema_is_that_of_the_tables(backend: Backend) -> None:
    database = Database(backend.create(migrated=False))
    upgrade(database)
    with database.write_engine.connect() as conn:
        options = {"compare_type": True, "render_as_batch": True}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), metadata) == []
        assert MigrationContext.configure(conn).get_current_revision() == migrations.head()
    database.close()


def test_upgrading_twice_does_nothing(backend: Backend) -> None:
    database = Database(backend.create(migrated=False))
    upgrade(database)
    with database.write_engine.begin() as conn:
        conn.execute(insert(blob_store.blobs).values(**blob("kept")))
    upgrade(database)
    with database.read() as conn:
        assert conn.execute(select(func.count()).select_from(blob_store.blobs)).scalar_one() == 1
    database.close()


def test_secrets_of_before_they_had_ids_are_kept(backend: Backend) -> None:
    database = Database(backend.create(migrated=False))
    upgrade(database, "0021")
    old = {"value": b"sealed", "created_by": "ann", "created_at": 1, "updated_at": 2}
    with database.write_engine.begin() as conn:
        for name in ("A", "B"):
            columns = ", ".join(("project", "name", *old))
            values = ", ".join(f":{column}" for column in ("project", "name", *old))
            insertion = text(f"INSERT INTO secrets ({columns}) VALUES ({values})")
            conn.execute(insertion, {"project": "p1", "name": name, **old})
    upgrade(database)
    with database.read() as conn:
        rows = conn.execute(select(secret_store.secrets).order_by(secret_store.secrets.c.name)).all()
    assert [(row.owner, row.project, row.name, bytes(row.value)) for row in rows] == [
        ("p1", "p1", "A", b"sealed"),
        ("p1", "p1", "B", b"sealed"),
    ]
    assert len({row.id for row in rows} - {""}) == 2
    database.close()


def test_runs_of_before_they_were_counted_count(backend: Backend) -> None:
    database = Database(backend.create(migrated=False))
    upgrade(database, "0025")
    texts = [
        column.name for column in engine_store.runs.c if not column.nullable and column.server_default is None
    ]
    row = {name: 0 if name.endswith("_at") else "" for name in texts}
    ended = [
        ("p1", "succeeded"),
        ("p1", "failed"),
        ("p1", "failed"),
        ("p1", "cancelled"),
        ("p2", "running"),
        ("", "failed"),
    ]
    with database.write_engine.begin() as conn:
        for number, (pipeline, status) in enumerate(ended):
            values = {**row, "id": f"run-{number}", "pipeline_id": pipeline, "status": status}
            conn.execute(engine_store.runs.insert().values(values))
    upgrade(database)
    with database.read() as conn:
        counted = run_counts.of_pipelines(conn, ["p1", "p2", ""])
    assert counted == {"p1": RunCounts(4, 1, 2, "cancelled"), "p2": RunCounts(1, 0, 0, "running")}
    database.close()


def test_the_newest_migration_is_the_one_that_servers_ask_for() -> None:
    assert migrations.head() == NEWEST


@pytest.mark.parametrize("before", [None, "0001", NEWEST])
def test_a_server_brings_its_database_to_the_newest_schema(backend: Backend, before: str | None) -> None:
    database = Database(backend.create(migrated=False))
    if before is not None:
        upgrade(database, before)
    with database.read() as conn:
        assert stored_version(conn) == before
    ensure_newest(database, in_child=True)
    with database.read() as conn:
        assert stored_version(conn) == NEWEST
    with database.write_engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    database.close()


def test_alembic_is_not_asked_when_the_schema_is_the_newest(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(backend.create())
    monkeypatch.setattr(command, "upgrade", None)
    ensure_newest(database, in_child=False)
    database.close()


@pytest.mark.parametrize("in_child", [True, False])
def test_a_server_says_that_the_database_is_too_new(backend: Backend, in_child: bool) -> None:
    database = Database(backend.create())
    with database.write_engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageTooNew, match="newer release"):
        ensure_newest(database, in_child=in_child)
    database.close()


FIRST_RELEASE = Path(__file__).parent / "first_release.sql"
OLD_VALUES = {
    "data": b'{"v":1,"run_id":"one"}',
    "spec": '{"jobs":[{"name":"j","steps":[{"name":"s","uses":"dummy","action":"run"}]}]}',
}


async def test_a_database_of_the_first_release_opens(backend: Backend) -> None:
    """As release 0001 left it, with a run under way; every later release must be able to go on from there."""
    database = Database(backend.create(migrated=False))
    upgrade(database, "0001")
    with database.write_engine.begin() as conn:
        for row in FIRST_RELEASE.read_text().split(";\n\n"):
            conn.execute(text(row), {name: value for name, value in OLD_VALUES.items() if f":{name}" in row})
    upgrade(database)
    async with writing(database) as (writer, journal):
        assert journal.epoch == "0a1b2c3d"
        await writer.write(appending(journal, 1))
        assert [entry.offset for entry in stored(database)] == [1, 2, 3]
    with database.read() as conn:
        run = engine_store.load_run(conn, "one")
        assert run is not None
        assert [step.current for job in run.jobs for step in job.steps] == ["try-1"]
        agent = fleet_store.agent(conn, "old")
        assert agent is not None
        assert (agent.online, agent.profile.labels, agent.profile.slots) == (True, {"os": "arm64"}, 3)
        lease = fleet_store.lease(conn, "try-1")
        assert lease is not None
        assert lease.project == run.project != ""
    database.close()


def test_a_database_of_a_newer_release_is_refused_and_left_alone(backend: Backend) -> None:
    database = Database(backend.create())
    with database.write_engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        conn.execute(insert(blob_store.blobs).values(**blob("theirs")))
    with pytest.raises(StorageTooNew) as refused:
        upgrade(database)
    assert refused.value.code == "STORAGE_TOO_NEW"
    with database.read() as conn:
        assert conn.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
        assert conn.execute(select(blob_store.blobs.c.id)).scalars().all() == ["theirs"]
    database.close()


def test_a_migration_that_fails_half_way_leaves_nothing_behind(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(backend.create(migrated=False))
    monkeypatch.setattr(command, "upgrade", failing_after(command.upgrade))
    with pytest.raises(OSError, match="pulled"):
        upgrade(database)
    monkeypatch.undo()
    upgrade(database)
    with database.write_engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    database.close()


def failing_after(whole: Callable[..., None]) -> Callable[..., None]:
    """The plug is pulled after the tables were made and before the revision was committed."""

    def broken(config: Any, revision: str) -> None:
        connection = config.attributes["connection"]
        made = 0

        def before(conn: Connection, cursor: Any, statement: str, *more: Any) -> None:
            nonlocal made
            made += "CREATE TABLE" in statement
            if made == 5:
                raise OSError("the plug was pulled")

        event.listen(connection, "before_cursor_execute", before)
        try:
            whole(config, revision)
        finally:
            event.remove(connection, "before_cursor_execute", before)

    return broken
