"""A job as a starter writes it, and how starters read the files they find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """``run``: a command, or several lines of them."""

    name: str
    run: str


@dataclass(frozen=True, slots=True)
class Job:
    """``source``: the file that told what to do. ``setup``: how many of the first steps only prepare the rest.

    ``path``: a directory of the workspace that these steps fill with programs, for a PATH of other jobs.
    """

    name: str
    source: str
    steps: tuple[Step, ...]
    setup: int = 0
    path: str = ""


def text_of(directory: Path, *names: str) -> str:
    """The text of the first of these files that is there, cut at 1 MiB; "" if none is or it cannot be read."""
    for name in names:
        path = directory / name
        try:
            if path.is_file():
                with path.open("rb") as file:
                    return file.read(_MAX_BYTES).decode(errors="replace")
        except OSError:
            continue
    return ""


def first_of(directory: Path, *names: str) -> str:
    """The first of these names that is a file here; "" if none is."""
    return next((name for name in names if (directory / name).is_file()), "")
