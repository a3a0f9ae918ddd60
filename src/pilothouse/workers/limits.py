"""Limits of child processes, and the command line of an isolated interpreter; also for the agent's other children.

Only ``resource`` and the standard library's small modules are imported: every worker imports this file.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use.

    ``cpu``: seconds of CPU time. ``wall``: seconds from the moment the job begins to run; waiting in the queue and
    starting a worker do not count. ``memory``: bytes of address space beyond those of an idle worker, arguments and
    result included; at most ``MAX_MEMORY``. ``result``: bytes of the result.
    """

    cpu: float = 5.0
    wall: float = 30.0
    memory: int = 512 * MIB
    result: int = 64 * MIB


MAX_MEMORY = 2048 * MIB


def lower(wanted: Mapping[int, int], pid: int = 0) -> None:
    """Set soft and hard limits (``resource.RLIMIT_*`` to a value) of a process, by default this one.

    A lower limit, set by an operator or the process itself, is kept; raising it would require CAP_SYS_RESOURCE.
    A process that has ended is ignored.
    """
    for kind, value in wanted.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _, hard = resource.prlimit(pid, kind)
            if hard == resource.RLIM_INFINITY or hard > value:
                resource.prlimit(pid, kind, (value, value))


def isolated_python(code: str, paths: Sequence[str]) -> list[str]:
    """The command line that runs ``code`` in an interpreter that reads neither environment variables nor the current
    directory nor ``.pth`` files, and imports from the standard library and ``paths`` only."""
    extended = f"import sys; sys.path.extend({list(paths)!r}); {code}"
    return [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", extended]
