"""Selection of log lines by job, step, attempt, time and text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pilothouse.cli.durations import seconds
from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.progress import BAD
from pilothouse.wire.times import utc_text

MAX_NAMED = 50
"""Maximum number of attempts in a server's filter."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as given."""

    job: str = ""
    step: str = ""
    attempt: int | None = None
    failed: bool = False
    since: str = ""
    tail: int | None = None
    grep: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """``steps``: (job, step) pairs, ``None`` for all; ``attempt`` 0 for all.

    ``narrowing``: the filter sent to the server; ``exact``: it matches only selected lines.
    """

    steps: frozenset[tuple[str, str]] | None
    attempt: int
    several: bool
    narrowing: dict[str, Any]
    exact: bool

    def wants(self, body: Mapping[str, Any]) -> bool:
        """Whether a log chunk is selected."""
        if self.steps is not None and (body.get("job"), body.get("step")) not in self.steps:
            return False
        return not self.attempt or body.get("attempt") == self.attempt


def select(view: Mapping[str, Any], asked: Asked, *, following: bool) -> Selected:
    """Resolve the options for a run. Raises UsageError for unknown jobs or steps, CliError if no step failed."""
    there = [(job["name"], step) for job in view["jobs"] for step in job["steps"]]
    found = [(job, step) for job, step in there if _named(asked, job, step["name"])]
    if not found and (asked.job or asked.step):
        raise UsageError(f"run {view['id']} has no {_wanted(asked)} (there are: {_list(there)})")
    if asked.failed:
        failed = [(job, step) for job, step in found if step["status"] in BAD]
        # Steps with continueOnError are selected only if no other step failed.
        found = [(job, step) for job, step in failed if not step.get("continue_on_error")] or failed
        if not found:
            raise CliError(f"no step of run {view['id']} has failed")
    attempts = [each for _job, step in found for each in _attempts(step, asked.attempt)]
    if asked.attempt and not attempts and not following:
        highest = max((each["number"] for _j, step in found for each in _attempts(step, None)), default=0)
        raise UsageError(f"there is no attempt {asked.attempt}; the highest is {highest}")
    pairs = frozenset((job, step["name"]) for job, step in found)
    steps = pairs if asked.job or asked.step or asked.failed else None
    narrowing = _narrowing(asked, steps, [each["step_run_id"] for each in attempts], following)
    exact = "step_runs" in narrowing or (not asked.attempt and _by_name(steps, narrowing, there))
    return Selected(steps, asked.attempt or 0, len(pairs) != 1, narrowing, exact)


def several_jobs(view: Mapping[str, Any], asked: Asked) -> list[str]:
    """The jobs with the named step, if no job was given and several match."""
    if asked.job or not asked.step or "/" in asked.step:
        return []
    jobs = [job["name"] for job in view["jobs"] if any(s["name"] == asked.step for s in job["steps"])]
    return jobs if len(jobs) > 1 else []


def _named(asked: Asked, job: str, step: str) -> bool:
    return asked.job in ("", job) and asked.step in ("", step, f"{job}/{step}")


def _attempts(step: Mapping[str, Any], number: int | None) -> Iterator[Mapping[str, Any]]:
    for each in step["attempts"]:
        if not each.get("earlier_run") and number in (None, each["number"]):
            yield each


def _narrowing(
    asked: Asked, steps: frozenset[tuple[str, str]] | None, attempts: list[str], following: bool
) -> dict[str, Any]:
    if steps is not None and len(steps) == 1 and not asked.attempt:
        ((job, step),) = steps
        return {"job": job, "step": step}
    # By id, unless attempts may be added while following.
    if (
        (asked.attempt or asked.failed or asked.step)
        and attempts
        and len(attempts) <= MAX_NAMED
        and not following
    ):
        return {"step_runs": attempts}
    return {"job": asked.job} if asked.job else {}


def _by_name(
    steps: frozenset[tuple[str, str]] | None, narrowing: dict[str, Any], there: list[tuple[str, Any]]
) -> bool:
    """Whether a filter by job and step name on the server matches exactly these steps."""
    matched = {
        (job, step["name"])
        for job, step in there
        if narrowing.get("job", job) == job and narrowing.get("step", step["name"]) == step["name"]
    }
    return steps is None or matched == steps


def _wanted(asked: Asked) -> str:
    return " of ".join(
        f"{kind} {name!r}" for kind, name in (("step", asked.step), ("job", asked.job)) if name
    )


def _list(there: list[tuple[str, Any]], most: int = 30) -> str:
    names = [f"{job}/{step['name']}" for job, step in there]
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none yet"


def beginning(text: str, now: datetime) -> str:
    """A duration before now (``10m``) or an RFC 3339 time, as RFC 3339 in UTC; empty if empty. Raises UsageError."""
    if not text:
        return ""
    try:
        if text[0].isdigit() and text[-1] in "smhd":
            at = now - timedelta(seconds=seconds(text) or 0)
        else:
            at = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since {text!r}: expected a duration such as 10m or a time such as 2026-01-10T14:00:00Z"
        ) from None
    return utc_text(at.astimezone(UTC), "milliseconds")


def pattern(text: str) -> re.Pattern[str] | None:
    """Compile the regular expression of ``--grep``. Raises UsageError."""
    try:
        return re.compile(text) if text else None
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"--grep {text!r} is not a valid regular expression: {error}") from None
