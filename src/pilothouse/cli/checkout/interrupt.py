"""Work in a thread that ends soon after its caller is cancelled (Ctrl-C), with all processes that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The work is not wanted any more."""


class _Work:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self.unwanted = False

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.add(process)
            if self.unwanted:
                kill(process)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.discard(process)

    def stop(self) -> None:
        with self._lock:
            self.unwanted = True
            for process in self._processes:
                kill(process)


_current: ContextVar[_Work | None] = ContextVar("work", default=None)


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns. When this is cancelled, :func:`check` raises in the thread from then on."""
    work = _Work()
    token = _current.set(work)
    try:
        return await asyncio.to_thread(function, *arguments)
    except asyncio.CancelledError:
        work.stop()
        raise
    finally:
        _current.reset(token)


def check() -> None:
    """Raise Interrupted if the work is not wanted any more."""
    work = _current.get()
    if work is not None and work.unwanted:
        raise Interrupted


def began(process: subprocess.Popen[bytes]) -> None:
    """A process that is to end with the work."""
    if (work := _current.get()) is not None:
        work.begin(process)


def ended(process: subprocess.Popen[bytes]) -> None:
    """It has ended."""
    if (work := _current.get()) is not None:
        work.end(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was not waited for yet, and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
