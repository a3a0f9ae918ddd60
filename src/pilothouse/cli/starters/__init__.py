"""First pipelines for ``pilot init``: jobs for what a directory holds, and the text of their spec.

Every name and command that is written comes from here; of the files that are found only known words are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pilothouse.cli.starters import go, make, node, python, rust
from pilothouse.cli.starters.job import Job, Step
from pilothouse.cli.starters.text import written

__all__ = ["Starter", "starter"]

_NOTHING = Job("hello", "", (Step("say", 'echo "write your commands here"'),))


@dataclass(frozen=True, slots=True)
class Starter:
    """``found``: the files that it was made from; ``jobs``: the names of its jobs; ``text``: the spec."""

    found: tuple[str, ...]
    jobs: tuple[str, ...]
    text: str


def starter(directory: Path) -> Starter:
    """The pipeline for a directory; where nothing is recognized, one that only says hello."""
    languages = [find(directory) for find in (python.find, node.find, go.find, rust.find)]
    jobs = [job for job in languages if job is not None]
    if (targets := make.find(directory, jobs)) is not None:
        jobs.append(targets)
    found = tuple(job.source for job in jobs)
    jobs = jobs or [_NOTHING]
    return Starter(found, tuple(job.name for job in jobs), written(jobs, found))
