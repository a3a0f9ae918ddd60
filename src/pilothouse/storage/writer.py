"""The writer: one thread that runs queued use cases, many per transaction (group commit).

A use case is a plain function of a :class:`Tx`. Its changes and the entries it stages for the journal are
committed together or not at all; callers get the result only after the commit is on disk.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from pilothouse.storage.database import Database, driver, now_ms
from pilothouse.storage.errors import StorageBusy, StorageClosed, StorageUnavailable

T = TypeVar("T")
log = structlog.get_logger("storage.writer")

MAX_GROUP = 256
GROUP_SECONDS = 0.025
"""After this time a group is committed as it is; the use cases that are left are the next group."""
MAX_QUEUED = 20_000


class Tx:
    """The transaction as seen by one use case."""

    __slots__ = ("conn", "effects", "now", "staged", "undo")

    def __init__(self, conn: Connection, now: int) -> None:
        self.conn = conn
        self.now = now
        self.staged: list[Any] = []
        self.effects: list[Callable[[], None]] = []
        self.undo: list[Callable[[], object]] = []

    def stage(self, item: Any) -> None:
        """Pass ``item`` to the commit hook, which stores it in the same transaction."""
        self.staged.append(item)

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Run ``effect`` on the event loop after the transaction is on disk; not if it fails."""
        self.effects.append(effect)

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Run ``undo`` in the writer thread if this use case is not committed."""
        self.undo.append(undo)


class CommitHook(Protocol):
    """The journal's part in every commit."""

    def prepare(self, conn: Connection, staged: list[Any]) -> Any:
        """Store the staged items; runs in the writer thread, inside the transaction."""

    def publish(self, prepared: Any) -> None:
        """Publish the items; runs on the event loop, after the commit."""


class _Job:
    __slots__ = ("error", "future", "result", "tx", "use_case")

    def __init__(self, use_case: Callable[[Tx], Any], future: asyncio.Future[Any]) -> None:
        self.use_case = use_case
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.tx: Tx | None = None


class Writer:
    """Runs use cases one after another in its own thread and commits them in groups."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._clock = clock
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._left: list[_Job] = []
        self._queued = 0
        self._accepted = 0
        self._hook: CommitHook | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._blocked = False
        self._outages = 0
        self._kept: Connection | None = None
        self._taken_over: list[Callable[[], None]] = []

    def on_takeover(self, invalidate: Callable[[], None]) -> None:
        """Call ``invalidate`` in the writer thread when another server has written since our last transaction."""
        self._taken_over.append(invalidate)

    def start(self, hook: CommitHook | None = None) -> None:
        """Start the thread; results are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._hook = hook
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def blocked(self) -> bool:
        """Whether the last group failed: the database is unavailable, or its disk is full."""
        return self._blocked

    @property
    def outages(self) -> int:
        """Number of groups of use cases that the database has not accepted."""
        return self._outages

    @property
    def queued(self) -> int:
        """Number of waiting and running use cases (a metric)."""
        return self._queued

    @property
    def accepted(self) -> int:
        """Number of use cases since the start (a metric)."""
        return self._accepted

    async def write(self, use_case: Callable[[Tx], T]) -> T:
        """Run ``use_case`` in a transaction; returns its result once it is on disk.

        Raises the exception of the use case (which is then rolled back), :class:`StorageBusy` if the queue is
        full, :class:`StorageClosed` after :meth:`stop`.
        """
        return await self.submit(use_case)

    def submit(self, use_case: Callable[[Tx], T]) -> asyncio.Future[T]:
        """Like :meth:`write`, but returns a future; use cases run in the order of submission."""
        if self._closing or self._loop is None:
            raise StorageClosed("the database writer has stopped")
        if self._queued >= MAX_QUEUED:
            raise StorageBusy(f"{self._queued} writes are waiting already; try again shortly")
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(_retrieve_error)  # a caller can be cancelled before the result arrives
        self._queued += 1
        self._accepted += 1
        self._queue.put(_Job(use_case, future))
        return future

    async def stop(self) -> None:
        """Run all queued use cases, then stop the thread."""
        if self._closing or self._thread is None:
            return
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        # The last results are delivered by callbacks that are already queued on this loop.
        await asyncio.sleep(0)

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._commit_next():
                pass
        finally:
            self._close_kept()

    def _commit_next(self) -> bool:
        """Wait for work and commit what has queued up; False once the writer is stopping."""
        if self._left:
            self._commit(self._left)
            return True
        group: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP or self._queue.empty():
                break
            job = self._queue.get()
        if group:
            self._commit(group)
        while job is None and self._left:
            self._commit(self._left)
        return job is not None

    def _commit(self, group: list[_Job]) -> None:
        """Run and commit the group, or its beginning, if that takes long."""
        prepared: Any = None
        self._left = []
        try:
            with self._transaction() as conn:
                end = time.monotonic() + GROUP_SECONDS
                for index, job in enumerate(group, 1):
                    self._run_one(conn, job)
                    if time.monotonic() > end:
                        group, self._left = group[:index], group[index:]
                        break
                staged = [item for job in group if job.tx is not None for item in job.tx.staged]
                if self._hook is not None and staged:
                    prepared = self._hook.prepare(conn, staged)
        except BaseException as error:  # the commit itself failed: nothing is stored
            log.error("storage.commit_failed", error=str(error), use_cases=len(group))
            prepared, translated = None, self._database.translated(error)
            for job in group:
                if job.tx is not None:
                    _undo(job.tx)
                job.error, job.tx = job.error or translated, None
        self._blocked = any(isinstance(job.error, StorageUnavailable) for job in group)
        self._outages += self._blocked
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, group, prepared)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        engine = self._database.write_engine
        if not self._database.is_sqlite:  # the pool tests whether the server still answers
            with engine.begin() as conn:
                if self._database.take_turn(conn):
                    for invalidate in self._taken_over:
                        invalidate()
                yield conn
            return
        conn = self._kept = self._kept or _kept_open(engine)
        try:
            driver(conn).execute("BEGIN IMMEDIATE")
            yield conn
            engine.dialect.do_commit(driver(conn))
        except BaseException:
            self._close_kept()  # its state is unknown; the pool rolls it back
            raise

    def _close_kept(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _run_one(self, conn: Connection, job: _Job) -> None:
        driver(conn).execute("SAVEPOINT use_case")
        tx = Tx(conn, self._clock())
        try:
            job.result = job.use_case(tx)
            job.tx = tx
        except Exception as error:
            _undo(tx)
            # A future refuses StopIteration as its exception, which would leave the caller waiting.
            job.error = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
            driver(conn).execute("ROLLBACK TO SAVEPOINT use_case")
        driver(conn).execute("RELEASE SAVEPOINT use_case")

    # -- back on the loop -------------------------------------------------------------------------------

    def _deliver(self, group: list[_Job], prepared: Any) -> None:
        self._queued -= len(group)
        if prepared is not None and self._hook is not None:
            try:
                self._hook.publish(prepared)
            except Exception:  # it is on disk: callers get their results even if publishing fails
                log.exception("storage.publish_failed")
        for job in group:
            self._settle(job)

    def _settle(self, job: _Job) -> None:
        if job.error is not None:
            if not job.future.done():
                job.future.set_exception(job.error)
            return
        if job.tx is not None:
            for effect in job.tx.effects:
                try:
                    effect()
                except Exception:
                    log.exception("storage.after_commit_failed")
        if not job.future.done():
            job.future.set_result(job.result)


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _kept_open(engine: Engine) -> Connection:
    """A connection that is in one long transaction for SQLAlchemy, while the writer begins and commits itself.

    SQLAlchemy's bookkeeping per transaction would cost as much as the rest of a small commit in Python.
    """
    conn = engine.connect()
    conn.begin()
    driver(conn).execute("ROLLBACK")
    return conn


def _undo(tx: Tx) -> None:
    for undo in tx.undo:
        undo()
