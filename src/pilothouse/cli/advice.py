"""Output after a failed run: the last log lines of failed steps and suggested next commands. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pilothouse.cli.progress import BAD, RunState
from pilothouse.cli.reference import short

_STEPS = 3
"""Maximum number of failed steps whose last lines are shown."""


def last_lines(run: RunState) -> Iterator[str]:
    """The last log lines of the first failed steps, grouped by step."""
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
    """Suggested commands for a failed run; empty for other runs. Descriptions are omitted if they do not fit.

    ``width``: terminal columns; 0 if there is no terminal.
    """
    if run.status not in BAD or run.transient:
        return
    name = short(run.id)
    commands = {
        f"  pilot run logs {name} --failed": "full log of the failed steps",
        f"  pilot run rerun {name} --failed": "rerun from the failed steps",
        f"  pilot run view {name}": "show all jobs, steps and attempts",
    }
    longest = max(map(len, commands))
    lines = {command: f"{command:{longest}}    # {purpose}" for command, purpose in commands.items()}
    fits = not width or max(map(len, lines.values())) <= width
    yield ""
    yield from lines.values() if fits else lines
