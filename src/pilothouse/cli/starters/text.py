"""The text of a spec that a starter writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.cli.starters.job import Job, Step

_HEAD = """\
# Written by `pilot init`{found}; change it as you like.
# Check it with `pilot pipeline lint`, run it with `pilot pipeline run`.
jobs:
"""


def written(jobs: Sequence[Job], found: Sequence[str]) -> str:
    """The spec of these jobs, side by side."""
    head = _HEAD.format(found=f" from {', '.join(found)}" if found else "")
    return head + "\n".join(_job(job) for job in jobs)


def _job(job: Job) -> str:
    lines = [f"  - name: {job.name}", "    timeout: 30m", "    steps:"]
    for step in job.steps:
        lines += _step(step)
    return "\n".join(lines) + "\n"


def _step(step: Step) -> list[str]:
    head = f"      - name: {step.name}"
    commands = step.run.splitlines()
    if len(commands) == 1 and _is_plain(commands[0]):
        return [head, f"        run: {commands[0]}"]
    return [head, "        run: |", *(f"          {command}" for command in commands)]


def _is_plain(command: str) -> bool:
    """Whether YAML takes it for a text without quotes."""
    return (
        (command[0].isalnum() or command[0] in "./")
        and ": " not in command
        and " #" not in command
        and command[-1] != ":"
    )
