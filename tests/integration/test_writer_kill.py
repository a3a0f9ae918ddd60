"""kill -9 in the middle of writing, again and again: what was acknowledged is there, whole and in order.

On PostgreSQL it is the client that is killed: what it was doing is undone, or its last commit stands.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from pilothouse.blobs import store
from pilothouse.journal import Entry, Journal
from pilothouse.journal import store as journal_store
from pilothouse.storage import Database
from support.databases import Backend

ROUNDS = 12
CHILD = Path(__file__).parent.parent / "support" / "writing_child.py"

Ack = tuple[int, int, int]


def killed_after(acks: int, program: subprocess.Popen[str]) -> list[Ack]:
    """One round: a child writes until it has acknowledged so much, then it is killed. All that it acknowledged."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("go\n")
    program.stdin.flush()
    pid, found = 0, list[Ack]()
    for line in program.stdout:
        words = line.split()
        if words[0] == "pid":
            pid = int(words[1])
        elif words[0] == "gone":
            return found
        else:
            found.append((int(words[1]), int(words[2]), int(words[3])))
        if pid and len(found) >= acks:
            os.kill(pid, signal.SIGKILL)
            pid = 0
    raise AssertionError(f"the program ended: {program.wait()}")


def stored(database: Database) -> tuple[list[Entry], set[str], int]:
    """All entries, the rows written with them, and the offset that comes next."""
    with database.read() as conn:
        found, more = journal_store.page(conn, None, 0, rows=1_000_000, size=1 << 40)
        assert not more
        rows = set(conn.execute(select(store.blobs.c.id)).scalars())
        return found, rows, journal_store.next_offset(conn)


@pytest.mark.parametrize("seed", [1])
def test_what_was_acknowledged_survives_a_kill(backend: Backend, seed: int) -> None:
    url = backend.share()
    chance = random.Random(seed)
    acknowledged: set[Ack] = set()
    epochs: set[str] = set()
    program = subprocess.Popen(
        [sys.executable, str(CHILD), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        for _ in range(ROUNDS):
            acknowledged |= set(killed_after(chance.randint(1, 150), program))
            database = Database(url)
            epochs.add(Journal(database).epoch)
            check(database, acknowledged)
            database.close()
    finally:
        program.kill()
        program.wait()
    assert len(epochs) == 1
    assert len({round for round, _, _ in acknowledged}) == ROUNDS


def check(database: Database, acknowledged: set[Ack]) -> None:
    entries, rows, following = stored(database)
    assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1)), "dense, and in order"
    assert following == len(entries) + 1
    told = [entry.body["id"] for entry in entries]
    assert len(set(told)) == len(told)
    assert set(told) == rows, "a change and its entry are stored together or not at all"
    parts = [tuple(map(int, id.split("."))) for id in told]
    assert acknowledged <= set(parts)
    assert not any(number % 7 == 3 for _, _, number in parts), "what failed is not there"
    by_writer: dict[tuple[int, ...], list[int]] = {}
    for round, one, number in parts:
        by_writer.setdefault((round, one), []).append(number)
    for numbers in by_writer.values():
        assert numbers == [n for n in range(numbers[-1] + 1) if n % 7 != 3], "in the order it was asked for"
    for (round, one), numbers in by_writer.items():
        last = max((n for r, w, n in acknowledged if (r, w) == (round, one)), default=-1)
        assert len([n for n in numbers if n > last]) <= 1, "at most the one that was under way"
