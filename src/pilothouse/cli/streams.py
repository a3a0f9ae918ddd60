"""Standard streams as a command may find them: closed, full, or in a character set of another age."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # typing is not loaded for it: completion comes this way, and has no time
if TYPE_CHECKING:
    from typing import Literal


def prepare() -> None:
    """Give every standard stream that was closed a stand-in, before a file of ours takes its number.

    A closed stdin is empty; a closed stdout fails when a result is written to it; what is said on a closed stderr
    is lost. Characters that a stream's encoding does not have are written as escapes.
    """
    if sys.stdin is None:
        sys.stdin = _opened(0, os.O_RDONLY, "r")
    if sys.stdout is None:
        # Open for reading: a write gives the error that the closed one would have given.
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
