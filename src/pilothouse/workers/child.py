"""A worker: a process that runs one job after the other for the pool that started it.

It communicates over a socket, which is its standard input. It has no other open files and no environment, may not
write to files or start processes or threads, and ends with its parent: the kernel then kills it, even in a job.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilothouse.workers import frames
from pilothouse.workers.frames import Decoder, Frame, FrameTooLarge
from pilothouse.workers.limits import MAX_MEMORY, MIB, Limits, lower

MAX_ARGUMENTS = 128 * MIB  # the pool's own bound is lower
CHUNK = MIB
MAX_LEFTOVER = 256 * MIB  # address space that jobs may leave behind until the worker is replaced
MAX_CPU = 3600  # seconds of a worker's life; after half of them it is replaced
_PR_SET_PDEATHSIG = 1


NICE = 5
"""How much the server itself goes first, where there are not enough processors for both."""


def main() -> None:
    """``sys.argv[1]``: the parent's process id."""
    _end_with(int(sys.argv[1]))
    os.nice(NICE)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the pool ends its workers itself
        signal.signal(ignored, signal.SIG_IGN)
    _bound()
    worker, decoder = Worker(), Decoder(MAX_ARGUMENTS)
    while not worker.exhausted and (data := os.read(0, CHUNK)):
        decoder.feed(data)
        if (frame := decoder.next()) is not None:
            worker.work(frame)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        sys.exit(1)


def _bound() -> None:
    """Set limits for the lifetime of the worker, which no job can raise."""
    with Path("/proc/self/oom_score_adj").open("w") as file:
        file.write("1000")  # if memory runs out, the kernel should kill a worker rather than the server
    lower(
        {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_NOFILE: 64,
            resource.RLIMIT_CPU: MAX_CPU,
            resource.RLIMIT_AS: _address_space() + MAX_MEMORY,
        }
    )


def _address_space() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class Worker:
    """Runs jobs, one at a time."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        self._idle_memory = _address_space()
        self._left = 0  # bytes that jobs have left behind; they do not count for the next job

    @property
    def exhausted(self) -> bool:
        """Whether a new worker should replace this one: its jobs left memory allocated, or used much CPU time."""
        return self._left > MAX_LEFTOVER or time.process_time() > MAX_CPU / 2

    def work(self, frame: Frame) -> None:
        """Run the job of a frame and send the answer."""
        name, cpu, memory, result, *arguments = frame.values
        function = self._function(name)
        _send(frames.encode(Frame(frames.STARTED, frame.number), 0))
        with _Limited(self._idle_memory + self._left, Limits(cpu=cpu, memory=memory, result=result)):
            answer = _answer(frame.number, function, arguments, result)
        _send(answer)
        del answer, arguments
        self._left = max(0, _address_space() - self._idle_memory)

    def _function(self, name: str) -> Callable[..., Any]:
        """The job's function. Its module is imported when it is first needed, without the limits of a job."""
        if name not in self._functions:
            before = _address_space()
            module, _, attribute = name.partition(":")
            self._functions[name] = getattr(importlib.import_module(module), attribute)
            self._idle_memory += max(0, _address_space() - before)
        return self._functions[name]


class _Limited:
    """A context in which the limits of a job apply.

    The kernel's default action for the signals of both limits ends the process, even where C code holds the
    interpreter's lock; memory that runs out raises MemoryError first.
    """

    def __init__(self, idle_memory: int, limits: Limits) -> None:
        self._cpu, self._memory = limits.cpu, idle_memory + limits.memory

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        hard = self._before[1]
        resource.setrlimit(resource.RLIMIT_AS, (min(self._memory, hard), hard))
        signal.setitimer(signal.ITIMER_PROF, self._cpu)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def _answer(number: int, function: Callable[..., Any], arguments: list[Any], limit: int) -> list[bytes]:
    """The encoded answer. Encoding the result is part of the job."""
    try:
        result = function(*arguments)
    except MemoryError:
        return _failure(number, frames.OUT_OF_MEMORY)
    except BaseException as error:
        return _failure(number, frames.RAISED, type(error).__name__, _where(error))
    try:
        return frames.encode(
            Frame(frames.DONE, number, result if isinstance(result, tuple) else (result,)), limit
        )
    except MemoryError:
        return _failure(number, frames.OUT_OF_MEMORY)
    except FrameTooLarge:
        return _failure(number, frames.TOO_LARGE)
    except TypeError:
        return _failure(number, frames.NOT_PLAIN)


def _failure(number: int, kind: int, *values: str) -> list[bytes]:
    return frames.encode(Frame(kind, number, values), MIB)


def _where(error: BaseException) -> str:
    """File, line and function of the innermost frame; never holds input."""
    innermost = error.__traceback__
    if innermost is None:
        return "an unknown place"
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{innermost.tb_lineno} ({code.co_name})"


def _send(pieces: list[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(0, view) :]
