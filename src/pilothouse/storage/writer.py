"""The writer: one thread that runs queued use cases, many to a transaction (group commit).

A use case is a plain function of a :class:`Tx`. What it changes and what it stages for the journal commit
together or not at all; callers hear of success only after the commit is on disk.
"""

from __future__ import annotations

import asyncio
import queue
import threading
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
MAX_QUEUED = 20_000


class Tx:
    """One use case's view of the transaction it runs in."""

    __slots__ = ("conn", "effects", "now", "staged", "undo")

    def __init__(self, conn: Connection, now: int) -> None:
        self.conn = conn
        self.now = now
        self.staged: list[Any] = []
        self.effects: list[Callable[[], None]] = []
        self.undo: list[Callable[[], object]] = []

    def stage(self, item: Any) -> None:
        """Hand ``item`` to the commit hook, which stores it in this same transaction."""
        self.staged.append(item)

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Run ``effect`` on the event loop once the transaction is on disk, never otherwise."""
        self.effects.append(effect)

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Run ``undo`` in the writer thread if nothing of this comes to be stored."""
        self.undo.append(undo)


class CommitHook(Protocol):
    """What the journal does at every commit."""

    def prepare(self, conn: Connection, staged: list[Any]) -> Any:
        """Store the staged items; runs in the writer thread, inside the transaction."""

    def publish(self, prepared: Any) -> None:
        """Tell the world; runs on the event loop, after the commit."""


class _Job:
    __slots__ = ("error", "future", "result", "tx", "use_case")

    def __init__(self, use_case: Callable[[Tx], Any], future: asyncio.Future[Any]) -> None:
        self.use_case = use_case
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.tx: Tx | None = None


class Writer:
    """Runs use cases one after another in a thread of its own and commits them in groups."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._clock = clock
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._queued = 0
        self._hook: CommitHook | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._blocked = False
        self._outages = 0
        self._kept: Connection | None = None
        self._taken_over: list[Callable[[], None]] = []

    def on_takeover(self, forget: Callable[[], None]) -> None:
        """Call this in the writer thread when another server has written since our last transaction."""
        self._taken_over.append(forget)

    def start(self, hook: CommitHook | None = None) -> None:
        """Start the thread; results come back to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._hook = hook
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def blocked(self) -> bool:
        """Whether the database took nothing the last time: it is away, or its disk is full."""
        return self._blocked

    @property
    def outages(self) -> int:
        """How many groups of use cases the database did not take."""
        return self._outages

    @property
    def queued(self) -> int:
        """How many use cases wait or run now (a metric)."""
        return self._queued

    async def write(self, use_case: Callable[[Tx], T]) -> T:
        """Run ``use_case`` in a transaction; return what it returned once that is on disk.

        Raises what the use case raised (nothing of it is then stored), :class:`StorageBusy` when the queue is
        full, :class:`StorageClosed` after :meth:`stop`.
        """
        return await self.submit(use_case)

    def submit(self, use_case: Callable[[Tx], T]) -> asyncio.Future[T]:
        """The same without waiting: use cases run in the order in which they were submitted."""
        if self._closing or self._loop is None:
            raise StorageClosed("the database writer has stopped")
        if self._queued >= MAX_QUEUED:
            raise StorageBusy(f"{self._queued} writes are waiting already; try again shortly")
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(_heard)  # a caller may go away before he is told
        self._queued += 1
        self._queue.put(_Job(use_case, future))
        return future

    async def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        if self._closing or self._thread is None:
            return
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        # The thread's last results are delivered by callbacks already queued on this loop.
        await asyncio.sleep(0)

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._commit_next():
                pass
        finally:
            self._let_go()

    def _commit_next(self) -> bool:
        """Wait for work and commit what has queued up; whether more may come."""
        group: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP or self._queue.empty():
                break
            job = self._queue.get()
        if group:
            self._commit(group)
        return job is not None

    def _commit(self, group: list[_Job]) -> None:
        prepared: Any = None
        try:
            with self._transaction() as conn:
                for job in group:
                    self._run_one(conn, job)
                staged = [item for job in group if job.tx is not None for item in job.tx.staged]
                if self._hook is not None and staged:
                    prepared = self._hook.prepare(conn, staged)
        except BaseException as error:  # the commit itself failed: nobody's work is stored
            log.error("storage.commit_failed", error=str(error), use_cases=len(group))
            prepared, told = None, self._database.told(error)
            for job in group:
                if job.tx is not None:
                    _undo(job.tx)
                job.error, job.tx = job.error or told, None
        self._blocked = any(isinstance(job.error, StorageUnavailable) for job in group)
        self._outages += self._blocked
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, group, prepared)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        engine = self._database.write_engine
        if not self._database.is_sqlite:  # the pool finds out whether the server is still there
            with engine.begin() as conn:
                if self._database.take_turn(conn):
                    for forget in self._taken_over:
                        forget()
                yield conn
            return
        conn = self._kept = self._kept or _kept_open(engine)
        try:
            driver(conn).execute("BEGIN IMMEDIATE")
            yield conn
            engine.dialect.do_commit(driver(conn))
        except BaseException:
            self._let_go()  # who knows what state it is in; the pool rolls it back
            raise

    def _let_go(self) -> None:
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
            # A future refuses StopIteration as its exception; nobody may be left waiting for that.
            job.error = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
            driver(conn).execute("ROLLBACK TO SAVEPOINT use_case")
        driver(conn).execute("RELEASE SAVEPOINT use_case")

    # -- back on the loop -------------------------------------------------------------------------------

    def _deliver(self, group: list[_Job], prepared: Any) -> None:
        self._queued -= len(group)
        if prepared is not None and self._hook is not None:
            try:
                self._hook.publish(prepared)
            except Exception:  # it is on disk: those who wait hear so whatever becomes of the telling
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


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _kept_open(engine: Engine) -> Connection:
    """A connection that SQLAlchemy takes to be in one long transaction: the writer begins and commits by itself.

    SQLAlchemy's own bookkeeping of each would cost as much as all else that a small commit does in Python.
    """
    conn = engine.connect()
    conn.begin()
    driver(conn).execute("ROLLBACK")
    return conn


def _undo(tx: Tx) -> None:
    for undo in tx.undo:
        undo()
