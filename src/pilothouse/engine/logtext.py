"""A run's log as plain text or as JSON lines, page by page from the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from pilothouse.engine import store
from pilothouse.engine.model import Status
from pilothouse.journal import Cursor, Entry
from pilothouse.journal import store as journal_store
from pilothouse.storage import Storage
from pilothouse.wire import entries

_LINES = (entries.STEP_LOGGED, entries.STEP_LOG_MISSED)
_TEXT, _NDJSON = "text/plain; charset=utf-8", "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The selection of lines and their format.

    ``job`` and ``step`` are names, ``step_runs`` ids of attempts (empty: all); ``since`` is in ms; ``tail``: the
    number of last lines (``None``: all). ``as_json``: an object for each chunk, and one for the end.
    """

    job: str | None = None
    step: str | None = None
    step_runs: tuple[str, ...] = ()
    since: int = 0
    tail: int | None = None
    as_json: bool = False

    def wants(self, entry: Entry) -> bool:
        """Whether an entry belongs to the selected job and step."""
        return self.job in (None, entry.body["job"]) and self.step in (None, entry.body["step"])


def run_logs(database: Storage, run_id: str, query: LogQuery) -> StreamingResponse:
    """All selected lines so far, in order."""
    return StreamingResponse(_pages(database, run_id, query), media_type=_NDJSON if query.as_json else _TEXT)


async def _pages(database: Storage, run_id: str, query: LogQuery) -> AsyncIterator[bytes]:
    end = await database.read(journal_store.next_offset)
    offset, skipped = await _beginning(database, run_id, query, end)
    status, over = "", False
    while True:
        while offset < end:
            page = await _page(database, run_id, query, offset, end, skipped)
            offset = page.next
            if page.text:
                skipped = 0
                yield page.text
        if over:
            break
        status = await database.read(lambda conn: _status(conn, run_id))
        over = bool(status) and Status(status).over
        if not over:
            break
        end = await database.read(
            journal_store.next_offset
        )  # entries between the last page and the end of the run
    if query.as_json:
        epoch = await database.read(journal_store.epoch)
        yield _json({"cursor": Cursor(end).text(epoch), "status": status})


@dataclass(frozen=True, slots=True)
class _Page:
    """The selected lines of a page, and the offset of the next page."""

    text: bytes
    next: int


async def _page(database: Storage, run_id: str, query: LogQuery, start: int, end: int, skipped: int) -> _Page:
    """A page from an offset on, without the first ``skipped`` lines; made in a thread."""

    def read(conn: Connection) -> _Page:
        found, more = journal_store.selected(
            conn,
            entries.run_stream(run_id),
            start,
            end,
            types=_LINES,
            subjects=query.step_runs,
            since=query.since,
        )
        wanted = [entry for entry in found if query.wants(entry)]
        if skipped and wanted:
            wanted[0] = wanted[0].tail(wanted[0].base + skipped)
        text = b"".join(_chunk(entry, query.as_json) for entry in wanted)
        return _Page(text, found[-1].offset + 1 if more else end)

    return await database.read_much(read)


async def _beginning(database: Storage, run_id: str, query: LogQuery, end: int) -> tuple[int, int]:
    """The start of the last ``tail`` lines: an offset, and the number of lines of its entry to skip."""
    if query.tail is None:
        return 0, 0
    below, missing = end, query.tail
    while missing > 0:

        def read(conn: Connection, below: int = below) -> tuple[list[tuple[int, int]], bool]:
            found, more = journal_store.selected(
                conn,
                entries.run_stream(run_id),
                0,
                below,
                types=(entries.STEP_LOGGED,),
                subjects=query.step_runs,
                since=query.since,
                backwards=True,
            )
            return [(e.offset, len(e.body["lines"]) if query.wants(e) else 0) for e in found], more

        found, more = await database.read_much(read)
        for offset, lines in found:
            below, missing = offset, missing - lines
            if missing <= 0:
                return offset, -missing
        if not more:
            return 0, 0
    return below, 0


def _status(conn: Connection, run_id: str) -> str:
    row = store.run_row(conn, run_id)
    return str(row.status) if row is not None else ""


def _chunk(entry: Entry, as_json: bool) -> bytes:
    if not as_json:
        return "".join(f"{line}\n" for line in entry.body.get("lines", ())).encode()
    return _json(dict(_shown(entry)))


def _shown(entry: Entry) -> Iterator[tuple[str, Any]]:
    body = entry.body
    yield from ((key, body.get(key)) for key in ("job", "step", "step_run_id", "attempt"))
    yield "time", entry.at
    for key in ("first", "lines", "stderr", "message"):
        if key in body:
            yield key, body[key]


def _json(value: Any) -> bytes:
    return orjson.dumps(value) + b"\n"
