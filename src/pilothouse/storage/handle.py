"""The database handle of services and routes: queries in threads, use cases in the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from pilothouse.storage.database import Database
from pilothouse.storage.writer import Tx, Writer

T = TypeVar("T")

LONG_READS = 2
"""Queries of :meth:`Storage.read_much` at once."""


class Storage:
    """One database and the writer of this server. Lives on the event loop; no call blocks it."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._long = asyncio.Semaphore(LONG_READS)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query in a thread, on one consistent snapshot.

        Raises what the query raises, :class:`StorageBusy` when no connection gets free,
        :class:`StorageUnavailable`.
        """

        def run() -> T:
            with self._database.read() as conn:
                return query(conn)

        return await asyncio.to_thread(run)

    async def read_much(self, query: Callable[[Connection], T]) -> T:
        """Like :meth:`read`, for queries that read and work on much: few at once, in the order of asking.

        So that threads remain for the short ones of others. Ask for a page at a time.
        """
        async with self._long:
            return await self.read(query)

    async def write(self, use_case: Callable[[Tx], T]) -> T:
        """Run a use case in the writer; returns after the commit is on disk (:meth:`Writer.write`)."""
        return await self._writer.write(use_case)

    def submit(self, use_case: Callable[[Tx], T]) -> asyncio.Future[T]:
        """Like :meth:`write`, but returns a future; use cases run in the order of submission."""
        return self._writer.submit(use_case)

    @property
    def shared(self) -> bool:
        """Whether other servers may use the same database; a file of SQLite has one server only."""
        return not self._database.is_sqlite

    @property
    def queued(self) -> int:
        """Number of waiting and running use cases."""
        return self._writer.queued

    @property
    def accepted(self) -> int:
        """Number of use cases given to the writer since the start."""
        return self._writer.accepted

    @property
    def blocked(self) -> bool:
        """Whether the last group failed: the database is unavailable, or its disk is full."""
        return self._writer.blocked

    @property
    def outages(self) -> int:
        """Number of groups of use cases that the database has not accepted."""
        return self._writer.outages

    def on_takeover(self, invalidate: Callable[[], None]) -> None:
        """Call ``invalidate`` in the writer thread when another server has written to the database."""
        self._writer.on_takeover(invalidate)
