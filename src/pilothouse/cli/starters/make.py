"""Make: the usual targets of the Makefile, after what the languages that are here need first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pilothouse.cli.starters.job import Job, Step, first_of, text_of

_FILES = ("GNUmakefile", "makefile", "Makefile")
_TARGETS = ("lint", "check", "build", "test")
_RULE = re.compile(r"^([A-Za-z0-9_][A-Za-z0-9_./ -]*?)\s*:(?!:?=)", re.MULTILINE)


def find(directory: Path, languages: Sequence[Job]) -> Job | None:
    """The job of a Makefile; None where there is none, or none of the usual targets in it."""
    source = first_of(directory, *_FILES)
    targets = {name for rule in _RULE.findall(text_of(directory, *_FILES)) for name in rule.split()}
    wanted = [name for name in _TARGETS if name in targets]
    if not source or not wanted:
        return None
    setup = [
        Step(f"{step.name} {job.name}", step.run) for job in languages for step in job.steps[: job.setup]
    ]
    paths = "".join(f"$PWD/{job.path}:" for job in languages if job.setup and job.path)
    prefix = f'PATH="{paths}$PATH" ' if paths else ""
    steps = [Step(name, f"{prefix}make {name}") for name in wanted]
    return Job("make", source, (*setup, *steps), setup=len(setup))
