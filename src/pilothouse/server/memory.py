"""Memory that the C library keeps after much work is given back to the system.

glibc keeps what was freed in its arenas, and gives it back only from their ends. After many large requests this can
be hundreds of MiB, which nothing uses.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from pathlib import Path

import structlog

from pilothouse.edge.module import Periodic

log = structlog.get_logger("server.memory")

EVERY = 2.0
"""Seconds between two looks."""
GROWN = 8 << 20
"""Bytes of growth since the last time from which on it is worth the work."""
PAGE = 4096
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of ``malloc.h``."""
LARGE = 256 << 10
"""Bytes from which on an allocation is a mapping of its own, which is gone when it is freed."""
ARENAS = 2
"""Heaps of all threads together. Python's lock lets hardly more than one thread allocate at a time."""


def settle_allocator() -> None:
    """Keep large requests from leaving gaps in the heap; to be called before there are threads.

    By default glibc has eight heaps for each processor, and raises the threshold with each large allocation that is
    freed, up to 32 MiB: bodies and batches then come from a heap, and what is allocated after them keeps it from
    shrinking.
    """
    if (libc := _libc()) is not None and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_ARENA_MAX, ARENAS)


class Trimmer:
    """Trims the heap when the process has grown, and has not grown further since the last look."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._least = self._before = resident()

    async def look(self) -> None:
        """One look."""
        now = resident()
        growing, self._before = now > self._before, now
        if self._trim is not None and now > self._least + GROWN and not growing:
            # A few objects that refer to each other can hold a large request for long, since it is their number that
            # starts a collection. Those of the youngest generation are at most some ten thousand.
            gc.collect(0)
            # A foreign call without the interpreter lock: other threads work on meanwhile.
            await asyncio.to_thread(self._trim, 0)
            self._least = self._before = resident()
            log.debug("server.memory_trimmed", before=now, after=self._least)
        self._least = min(self._least, now)


def trimming() -> tuple[Periodic, ...]:
    """The work for the background; none where the C library has no such function."""
    return (Periodic("memory", Trimmer().look, EVERY),) if _malloc_trim() is not None else ()


def resident() -> int:
    """Resident bytes of this process; 0 where this is not known."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    return getattr(_libc(), "malloc_trim", None)  # another C library has none


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None)
    except OSError:
        return None
