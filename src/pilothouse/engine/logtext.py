"""A run's log as plain text, page by page from the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from pilothouse.identity.service import Identity
from pilothouse.journal import Entry
from pilothouse.journal import store as journal_store
from pilothouse.wire import entries


def run_logs(identity: Identity, run_id: str, job: str | None, step: str | None) -> StreamingResponse:
    """All lines so far, in order, of the whole run or of one job or step (by name)."""

    async def body() -> AsyncIterator[str]:
        offset, more = 0, True
        while more:

            def page(conn: Connection, start: int = offset) -> tuple[list[Entry], bool]:
                return journal_store.page(conn, entries.run_stream(run_id), start)

            found, more = await identity.read(page)
            for entry in found:
                if entry.type == entries.STEP_LOGGED and _wanted(entry, job, step):
                    yield "\n".join(entry.body["lines"]) + "\n"
            if found:
                offset = found[-1].offset + 1

    return StreamingResponse(body(), media_type="text/plain; charset=utf-8")


def _wanted(entry: Entry, job: str | None, step: str | None) -> bool:
    return job in (None, entry.body["job"]) and step in (None, entry.body["step"])
