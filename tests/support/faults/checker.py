"""What must hold after whatever happened: nothing acknowledged is lost, doubled or out of order.

``Journal`` reads the database itself, past all of the server's code; ``support.faults.story`` knows what a run's entries
may say; ``support.faults.audience`` has those who watch, ``support.faults.witness`` one who knows what was acknowledged to him.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from support.faults.story import Entry, check_story

Lines = Mapping[str, Sequence[str]]
"""By step, named ``job/step``."""


class Journal:
    """Everything the database holds at this moment."""

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / "pilothouse.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
            db.execute("BEGIN")
            rows = db.execute('SELECT "offset", stream, type, data FROM entries ORDER BY "offset"').fetchall()
            self.next = int(db.execute("SELECT next FROM journal_head").fetchone()[0])
            self.leases = int(db.execute("SELECT count(*) FROM leases").fetchone()[0])
            self.ok = db.execute("PRAGMA integrity_check").fetchone()[0]
        self.entries = [Entry(o, stream, type, json.loads(data)) for o, stream, type, data in rows]

    def of_run(self, run_id: str) -> list[Entry]:
        """The entries of one run."""
        return [entry for entry in self.entries if entry.stream == f"run/{run_id}"]

    def check(self) -> None:
        """The file is sound, and its offsets have neither hole nor double."""
        assert self.ok == "ok"
        offsets = [entry.offset for entry in self.entries]
        assert offsets == list(range(1, self.next)), "offsets are not dense"

    def check_run(self, run_id: str, expected: Lines, allowed: Mapping[str, int] | None = None) -> None:
        """One run's entries are a consistent history, with every expected line once and in order.

        ``allowed``: how often each step may be started.
        """
        entries = self.of_run(run_id)
        check_story(entries, allowed)
        assert lines_by_node(entries) == {node: list(lines) for node, lines in expected.items() if lines}

    def starts(self, run_id: str) -> dict[str, int]:
        """How often each step was started."""
        counted: dict[str, int] = defaultdict(int)
        for entry in self.of_run(run_id):
            if entry.type == "step.started":
                counted[entry.node] += 1
        return dict(counted)


def lines_by_node(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """The log lines of each step, of all its attempts."""
    found: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.type == "step.logged":
            found[entry.node] += entry.body["lines"]
    return dict(found)
