"""The worker pool."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple, cast

from pilothouse.workers import frames
from pilothouse.workers.errors import (
    Crashed,
    JobRaised,
    NotPlainData,
    OutOfMemory,
    PoolClosed,
    TooLarge,
    WorkError,
)
from pilothouse.workers.frames import Frame, FrameTooLarge
from pilothouse.workers.limits import MAX_MEMORY, Limits
from pilothouse.workers.turns import Bounds, Turns
from pilothouse.workers.worker import NotStarted, Request, Worker

MAX_ARGUMENTS = 64 << 20  # bytes
MAX_JOBS = 1000  # of one worker; then a new one takes over
CLOSE_WITHIN = 10.0  # seconds

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class State:
    """The state of the pool: ``workers``, and jobs ``running`` and ``waiting`` now; since its creation,
    ``started`` workers, and jobs ``ended``, by outcome (``done`` or the code of the error)."""

    workers: int
    running: int
    waiting: int
    started: int
    ended: Mapping[str, int]


class Pool:
    """Runs jobs in at most ``workers`` child processes, which are started when needed and ended after ``idle``
    seconds without work.

    ``jobs``: the functions that may be run, each at the top of a module (:meth:`add`). Belongs to one event loop.
    """

    def __init__(
        self,
        jobs: Iterable[Callable[..., Any]] = (),
        *,
        workers: int = 2,
        idle: float = 30.0,
        bounds: Bounds = Bounds(),
    ) -> None:
        self._names: dict[Callable[..., Any], str] = {}
        self.add(jobs)
        self._idle_seconds = idle
        self._turns = Turns(workers, bounds)
        self._numbers = itertools.count(1)
        self._idle: dict[Worker, asyncio.TimerHandle] = {}  # the most recently used is the last
        self._callers: dict[Worker, str] = {}  # workers that run a job, or are being killed
        self._started = 0
        self._ended: Counter[str] = Counter()

    def add(self, jobs: Iterable[Callable[..., Any]]) -> None:
        """Allow further jobs. Raises ValueError where one is not at the top of a module."""
        self._names.update((job, _name(job)) for job in jobs)

    async def run(
        self,
        job: Callable[[*Arguments], Result],
        *args: *Arguments,
        caller: str,
        limits: Limits = Limits(),
    ) -> Result:
        """Call ``job(*args)`` in a worker and return its result.

        ``caller``: who the work is for, such as ``user/<id>``; each caller has a queue of its own. Arguments are JSON
        data or bytes, and so is the result; a tuple of several results may hold both. Raises WorkError; a job that
        fails in any way fails alone. Cancelled, it kills the worker that runs the job.
        """
        try:
            request = self._request(self._names[job], args, limits)
            answer = await self._served(request, caller)
            result = _result(answer)
        except WorkError as error:
            self._ended[error.code] += 1
            raise
        except asyncio.CancelledError:
            self._ended["CANCELLED"] += 1
            raise
        self._ended["done"] += 1
        return cast(Result, result)

    def _request(self, name: str, args: tuple[Any, ...], limits: Limits) -> Request:
        if not 0 < limits.memory <= MAX_MEMORY or limits.cpu <= 0 or limits.wall <= 0:
            raise ValueError(f"invalid limits: {limits}")
        number = next(self._numbers)
        values = (name, limits.cpu, limits.memory, limits.result, *args)
        try:
            pieces = frames.encode(Frame(frames.JOB, number, values), MAX_ARGUMENTS)
        except FrameTooLarge as error:
            raise TooLarge(f"the job's arguments are too large: {error}") from None
        except TypeError:
            raise NotPlainData("the job's arguments are neither JSON data nor bytes") from None
        return Request(number, pieces, sum(map(len, pieces)), limits)

    async def _served(self, request: Request, caller: str) -> Frame:
        await self._turns.take(caller, request.size)
        while True:
            worker, fresh = self._worker(caller)
            try:
                answer = await worker.ask(request)
            except NotStarted:
                del self._callers[worker]  # the next worker uses the turn
                worker.kill()
                if fresh:
                    self._turns.give_back(caller)
                    raise Crashed("a worker ended while it was starting") from None
            except BaseException:
                self._end(worker)
                raise
            else:
                self._keep(worker)
                return answer

    def _worker(self, caller: str) -> tuple[Worker, bool]:
        """An idle or new worker, and whether it is new. The caller holds a turn."""
        fresh = not self._idle
        if fresh:
            try:
                worker = Worker(self._gone)
            except OSError as error:
                self._turns.give_back(caller)
                raise Crashed(f"cannot start a worker: {error.strerror}") from None
            self._started += 1
        else:
            worker, timer = self._idle.popitem()
            timer.cancel()
        self._callers[worker] = caller
        return worker, fresh

    def _keep(self, worker: Worker) -> None:
        """Make a worker that has answered idle, or end it."""
        if worker.jobs >= MAX_JOBS or worker.gone.is_set():
            self._end(worker)
            return
        self._idle[worker] = asyncio.get_running_loop().call_later(self._idle_seconds, worker.kill)
        self._turns.give_back(self._callers.pop(worker))

    def _end(self, worker: Worker) -> None:
        """End a worker that runs no job any more."""
        worker.kill()
        if worker.gone.is_set():
            self._gone(worker)

    def _gone(self, worker: Worker) -> None:
        """The worker's process has ended. Its turn ends only now: there are never more processes than turns."""
        if worker.asked:
            return  # the task that waits for its answer reads the end of the connection
        if (timer := self._idle.pop(worker, None)) is not None:
            timer.cancel()
        if (caller := self._callers.pop(worker, None)) is not None:
            self._turns.give_back(caller)

    def state(self) -> State:
        """The current state, for metrics."""
        return State(
            workers=len(self._idle) + len(self._callers),
            running=len(self._callers),
            waiting=self._turns.waiting,
            started=self._started,
            ended=dict(self._ended),
        )

    async def close(self) -> None:
        """End all workers. All waiting, running and later jobs fail with PoolClosed."""
        self._turns.close()
        workers = [*self._idle, *self._callers]
        for worker in workers:
            worker.kill(PoolClosed("the pool is closed"))
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                for worker in workers:
                    await worker.gone.wait()
        except TimeoutError:
            return  # a killed process may be in an uninterruptible call; it ends after that


def _name(job: Callable[..., Any]) -> str:
    """The name by which a worker imports a job. Raises ValueError if it could not."""
    name = f"{job.__module__}:{job.__qualname__}"
    if not job.__qualname__.isidentifier() or job.__module__ == "__main__":
        raise ValueError(f"{name} is not at the top of a module that can be imported")
    return name


def _result(answer: Frame) -> Any:
    """The job's result. Raises what the worker reports instead."""
    match answer.kind:
        case frames.RAISED:
            raise JobRaised(*answer.values)
        case frames.OUT_OF_MEMORY:
            raise OutOfMemory("job")
        case frames.TOO_LARGE:
            raise TooLarge("the job's result is too large")
        case frames.NOT_PLAIN:
            raise NotPlainData("the job's result is neither JSON data nor bytes")
    return answer.values[0] if len(answer.values) == 1 else answer.values
