"""Prepares standard streams that are closed or have a limited encoding."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # typing is not imported: completion uses this module and must start fast
if TYPE_CHECKING:
    from typing import Literal


def prepare() -> None:
    """Replace closed standard streams, before another file gets their descriptor.

    A closed stdin is empty; writes to a closed stdout fail; output to a closed stderr is discarded. Characters that a
    stream's encoding cannot represent are escaped.
    """
    if sys.stdin is None:
        sys.stdin = _opened(0, os.O_RDONLY, "r")
    if sys.stdout is None:
        # Opened for reading: writes fail as on a closed stream.
        sys.stdout = _opened(1, os.O_RDONLY, "w")
    if sys.stderr is None:
        sys.stderr = _opened(2, os.O_WRONLY, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _opened(number: int, flags: int, mode: Literal["r", "w"]) -> io.TextIOWrapper:
    descriptor = os.open(os.devnull, flags)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return open(number, mode, encoding="utf-8", closefd=False)
