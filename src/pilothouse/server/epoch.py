"""Recognizes a database that was restored from a backup, and gives its journal a new epoch.

Readers hold cursors into what the journal was before. In a restored database the same offsets are given to other
entries, so those cursors must be refused (410), which they are under another epoch. The server keeps the head of the
journal in a file beside the database; a database that is behind it, or has another entry there, is another one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson
import structlog

from pilothouse.journal import store
from pilothouse.storage import Database

log = structlog.get_logger("server.epoch")

HEAD_FILE = "journal-head"
KEEP_EVERY = 1.0
MAX_FORMER = 100


@dataclass(frozen=True, slots=True)
class Head:
    """The head of the journal: its epoch, the next offset, a digest of the last entry, and epochs that ended."""

    epoch: str
    next: int
    last: str
    former: tuple[str, ...] = ()

    def following(self, epoch: str) -> Head:
        """The same under a new epoch."""
        if epoch == self.epoch:
            return self
        return replace(self, epoch=epoch, former=(*self.former, self.epoch)[-MAX_FORMER:])


def check_epoch(database: Database, data_dir: Path) -> str:
    """Before the journal is opened: give it a new epoch if the database was restored; returns why, or ``""``."""
    path = data_dir / HEAD_FILE
    known = read_head(path)
    with database.write_engine.begin() as conn:
        found = store.head(conn)
        if found is None:
            path.unlink(missing_ok=True)  # of a database that is gone
            store.create_head(conn, secrets.token_hex(4))
            found = store.head(conn)
            assert found is not None
        reason = _restored(database, found, known, lambda at: store.entry_digest(conn, at))
        epoch = secrets.token_hex(4) if reason else found.epoch
        if reason:
            store.set_epoch(conn, epoch)
        if not found.kept_outside:
            store.mark_kept_outside(conn)
        former = known.former if known is not None else ()
        if known is not None and known.epoch != epoch:
            former = (*former, known.epoch)
        if found.epoch not in (epoch, *former):
            former = (*former, found.epoch)
        now = Head(epoch, found.next, store.entry_digest(conn, found.next - 1), former[-MAX_FORMER:])
    # After the commit: a process that is killed here finds an epoch that it does not know, which is no reason.
    write_head(path, now)
    if reason:
        log.warning("journal.new_epoch", reason=reason, epoch=epoch)
    return reason


def new_epoch(database: Database, data_dir: Path) -> str:
    """Give the journal a new epoch, on request of the operator."""
    path, epoch = data_dir / HEAD_FILE, secrets.token_hex(4)
    known = read_head(path)
    with database.write_engine.begin() as conn:
        store.set_epoch(conn, epoch)
        found = store.head(conn)
        assert found is not None
        last = store.entry_digest(conn, found.next - 1)
    write_head(path, replace((known or Head(epoch, 0, "")).following(epoch), next=found.next, last=last))
    return epoch


def _restored(
    database: Database, found: store.JournalHead, known: Head | None, digest: Callable[[int], str]
) -> str:
    """Why the database is not the one that was here before; ``""`` if it is."""
    if known is None:
        # Servers of a shared database may be new; a file of SQLite has one server, which has left its head.
        if found.kept_outside and database.is_sqlite:
            return f"the database was put here without the file {HEAD_FILE}"
        return ""
    if found.epoch in known.former:
        return "the database is of a former epoch"
    if found.epoch != known.epoch:
        return ""  # another server, or the operator, has given it a new one
    if found.next < known.next:
        return f"the database is older: its journal ends at {found.next}, and has been at {known.next}"
    if known.last and digest(known.next - 1) not in ("", known.last):
        return f"the database is another one: it has another entry at {known.next - 1}"
    return ""


class HeadKeeper:
    """Writes the head of the journal to its file: every second if it has moved, and when the server stops."""

    def __init__(self, database: Database, data_dir: Path, position: Callable[[], int]) -> None:
        """``position``: the journal's next offset, as known in memory."""
        self._database = database
        self._path = data_dir / HEAD_FILE
        self._position = position
        self._kept = -1

    async def keep(self) -> None:
        """Background work."""
        if self._position() != self._kept:
            await asyncio.to_thread(self.keep_now)

    def keep_now(self) -> None:
        """Write the file."""
        position, known = self._position(), read_head(self._path)
        with self._database.read() as conn:
            found = store.head(conn)
            if found is None:
                return
            head = known or Head(found.epoch, 0, "")
            last = store.entry_digest(conn, found.next - 1)
            head = replace(head.following(found.epoch), next=found.next, last=last)
        try:
            if head != known:
                write_head(self._path, head)
            self._kept = position
        except OSError as error:  # a full disk, for example: the file says less than there is
            log.warning("journal.head_not_kept", error=str(error))


def read_head(path: Path) -> Head | None:
    """The head in the file; ``None`` without a file that can be read."""
    try:
        kept = orjson.loads(path.read_bytes())
        return Head(str(kept["epoch"]), int(kept["next"]), str(kept["last"]), tuple(map(str, kept["former"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_head(path: Path, head: Head) -> None:
    """Replace the file as a whole, durably."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("wb") as file:
        file.write(orjson.dumps(asdict(head)))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
