"""Tests that start a server run on both databases: the list of them is whole, and the switch really switches."""

from __future__ import annotations

import re
from pathlib import Path

from pilothouse.storage import Database
from support.databases import CHOSEN
from support.server import running

ROOT = Path(__file__).parents[2]
STARTS_A_SERVER = re.compile(r"^from (support\.server|support\.databases|identity_kit) import", re.MULTILINE)
OF_PROCESSES = {"test_imports.py", "test_hostile_specs.py", "test_rights_of_waiting_writes.py"}
"""What these look at is the same with every database: imports, the time that one thread is busy, and what happens
before a write, for which SQLite's file is locked."""
CHOOSES_ITSELF = re.compile(r"\b(postgres: Postgres|backend: Backend)\b")


def test_no_test_of_a_server_is_forgotten() -> None:
    """Tests that ``make test`` also runs on PostgreSQL, from the Makefile."""
    listed = re.search(r"^ON_POSTGRES := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    again = {file for word in listed[1].replace("\\", " ").split() for file in ROOT.glob(word)}
    forgotten = []
    for file in sorted(ROOT.glob("tests/*/test_*.py")):
        text = file.read_text()
        concerned = STARTS_A_SERVER.search(text) and not CHOOSES_ITSELF.search(text)
        concerned = concerned and file.name not in OF_PROCESSES
        if concerned and file.parent.name in ("integration", "e2e") and not again & {file, file.parent}:
            forgotten.append(file.name)
    assert forgotten == []


def test_a_server_uses_the_given_data_directory(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.project("kept")
        embedded = (server.data_dir / "pilothouse.db").exists()
        assert embedded == (CHOSEN == "sqlite")
        if not embedded:
            database = Database(server.settings["database_url"])
            with database.read() as conn:
                found = conn.exec_driver_sql("SELECT count(*) FROM projects WHERE name = 'kept'")
                assert found.scalar_one() == 1
            database.close()
