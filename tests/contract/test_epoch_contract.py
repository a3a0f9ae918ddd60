"""A restored database is recognized by the head of the journal that is kept beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pilothouse.journal import Entry, Journal, store
from pilothouse.server.epoch import HEAD_FILE, HeadKeeper, check_epoch, new_epoch, read_head
from pilothouse.storage import Database


def append(database: Database, *words: str) -> int:
    """Entries, as committed by a server; the next offset."""
    with database.write_engine.begin() as conn:
        offset = store.reserve(conn, len(words))
        store.append(
            conn,
            [
                Entry(offset + at, "run/1", "", "step.logged", 1, "admin", word.encode(), {})
                for at, word in enumerate(words)
            ],
        )
        return offset + len(words)


def started(database: Database, data_dir: Path) -> tuple[str, bool]:
    """A server starts: the epoch, and whether it says that the database was restored."""
    restored = bool(check_epoch(database, data_dir))
    return Journal(database).epoch, restored


def stopped(database: Database, data_dir: Path) -> None:
    """A server stops, or has kept the head a moment before it was killed."""
    with database.read() as conn:
        position = store.next_offset(conn)
    HeadKeeper(database, data_dir, lambda: position).keep_now()


def restore(database: Database, back_to: int) -> None:
    """The entries and the head as they were at that offset."""
    with database.write_engine.begin() as conn:
        conn.execute(store.entries.delete().where(store.entries.c.offset >= back_to))
        conn.execute(store.journal_head.update().values(next=back_to))


def test_a_server_that_starts_again_keeps_its_epoch(database: Database, tmp_path: Path) -> None:
    epoch, restored = started(database, tmp_path)
    assert not restored
    for words in (("a",), ("b", "c"), ()):
        if words:
            append(database, *words)
        stopped(database, tmp_path)
        append(database, "after the last time that the head was kept")
        assert started(database, tmp_path) == (epoch, False)
    assert read_head(tmp_path / HEAD_FILE) is not None


def test_an_older_copy_gets_a_new_epoch(database: Database, tmp_path: Path) -> None:
    epoch, _ = started(database, tmp_path)
    kept = append(database, "a", "b")
    append(database, "c", "d")
    stopped(database, tmp_path)
    restore(database, kept)
    second, restored = started(database, tmp_path)
    assert restored
    assert second != epoch
    assert started(database, tmp_path) == (second, False), "once"


def test_an_older_copy_that_went_on_elsewhere_is_recognized_by_its_entries(
    database: Database, tmp_path: Path
) -> None:
    """By another server, or with the file away for a while."""
    epoch, _ = started(database, tmp_path)
    kept = append(database, "a", "b")
    append(database, "c", "d")
    stopped(database, tmp_path)
    restore(database, kept)
    append(database, "x", "y", "z")
    second, restored = started(database, tmp_path)
    assert (restored, second != epoch) == (True, True)


def test_entries_that_retention_has_deleted_are_no_reason(database: Database, tmp_path: Path) -> None:
    epoch, _ = started(database, tmp_path)
    end = append(database, "a", "b")
    stopped(database, tmp_path)
    with database.write_engine.begin() as conn:
        store.forget(conn, "run/1", end)
    append(database, "c")
    assert started(database, tmp_path) == (epoch, False)


def test_a_copy_of_a_former_epoch_is_recognized(database: Database, tmp_path: Path) -> None:
    """Backup, restore of an older one, then restore of that backup: the first epoch is over for good."""
    first, _ = started(database, tmp_path)
    kept = append(database, "a", "b", "c")
    stopped(database, tmp_path)
    restore(database, kept - 1)
    second, _ = started(database, tmp_path)
    stopped(database, tmp_path)
    with database.write_engine.begin() as conn:
        store.set_epoch(conn, first)
    append(database, "d", "e", "f")
    third, restored = started(database, tmp_path)
    assert restored
    assert len({first, second, third}) == 3


def test_a_new_epoch_of_another_server_is_accepted(database: Database, tmp_path: Path) -> None:
    """Each server has a file of its own; after a restore, the first that starts begins the epoch for all."""
    directories = [tmp_path / "one", tmp_path / "two", tmp_path / "new"]
    for directory in directories:
        directory.mkdir()
    one, two, fresh = directories
    started(database, one)
    started(database, two)
    kept = append(database, "a")
    append(database, "b")
    stopped(database, one)
    stopped(database, two)
    restore(database, kept)
    epoch, restored = started(database, one)
    assert restored
    assert started(database, two) == (epoch, False)
    assert started(database, one) == (epoch, False)
    if database.is_sqlite:  # whose file has one server
        assert started(database, fresh)[1]
    else:
        assert started(database, fresh) == (epoch, False)


def test_the_operator_begins_an_epoch(database: Database, tmp_path: Path) -> None:
    first, _ = started(database, tmp_path)
    append(database, "a")
    second = new_epoch(database, tmp_path)
    assert second != first
    assert started(database, tmp_path) == (second, False)
    head = read_head(tmp_path / HEAD_FILE)
    assert head is not None
    assert head.former == (first,)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"epoch": "x", "next": "y"}'])
def test_a_file_that_cannot_be_read_counts_as_lost(
    database: Database, tmp_path: Path, content: bytes
) -> None:
    """On SQLite that is a reason; servers of PostgreSQL may be new."""
    started(database, tmp_path)
    (tmp_path / HEAD_FILE).write_bytes(content)
    assert started(database, tmp_path)[1] is database.is_sqlite


def test_a_database_of_a_release_before_keeps_its_epoch(database: Database, tmp_path: Path) -> None:
    epoch = Journal(database).epoch
    append(database, "a")
    assert started(database, tmp_path) == (epoch, False)
    with database.read() as conn:
        assert conn.execute(text("SELECT kept_outside FROM journal_head")).scalar_one()


def test_the_head_is_written_when_it_has_moved_alone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(database, tmp_path)
    position = 1
    keeper = HeadKeeper(database, tmp_path, lambda: position)
    written: list[Any] = []
    write: Callable[..., None] = lambda path, head: written.append(head)  # noqa: E731
    keeper.keep_now()
    monkeypatch.setattr("pilothouse.server.epoch.write_head", write)
    keeper.keep_now()
    assert written == []
    position = append(database, "a")
    keeper.keep_now()
    assert [head.next for head in written] == [position]


def test_a_copied_file_of_sqlite_is_another_database(migrated_sqlite: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    source = Path(shutil.copy(migrated_sqlite, tmp_path / "source.db"))
    database = Database.at(source)
    epoch, _ = started(database, tmp_path / "first")
    append(database, "a")
    stopped(database, tmp_path / "first")
    database.close()
    shutil.copy(source, tmp_path / "second" / "pilothouse.db")
    copy = Database.at(tmp_path / "second" / "pilothouse.db")
    second, restored = started(copy, tmp_path / "second")
    copy.close()
    assert (restored, second != epoch) == (True, True)
