"""After a run that failed: the last lines of what failed, and the commands one gives next. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pilothouse.cli.progress import BAD, RunState
from pilothouse.cli.reference import short

_STEPS = 3
"""Of how many failed steps the last lines are shown."""


def last_lines(run: RunState) -> Iterator[str]:
    """The last lines of the first few failed steps, each under its name."""
    if run.status not in BAD:
        return
    failed = run.failed_steps()
    for step in failed[:_STEPS]:
        if step.tail:
            yield ""
            yield f"last lines of {step.path}:"
            yield from (f"  {line}" for line in step.tail)
    if len(failed) > _STEPS:
        yield ""
        yield f"{len(failed) - _STEPS} more steps failed"


def next_commands(run: RunState, width: int = 0) -> Iterator[str]:
    """Three commands for a run that failed; none for others. What each is for is left out where there is no room.

    ``width``: columns of the terminal; 0 without one.
    """
    if run.status not in BAD:
        return
    name = short(run.id)
    commands = {
        f"  pilot run logs {name} --failed": "the whole log of the failed steps",
        f"  pilot run rerun {name} --failed": "run again from what failed",
        f"  pilot run view {name}": "all jobs, steps and attempts",
    }
    longest = max(map(len, commands))
    lines = {command: f"{command:{longest}}    # {purpose}" for command, purpose in commands.items()}
    fits = not width or max(map(len, lines.values())) <= width
    yield ""
    yield from lines.values() if fits else lines
