"""A run as a tree of jobs and steps, one line each, for terminals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from pilothouse.cli.progress import BAD, OVER, JobState, RunState, StepState, words
from pilothouse.cli.text import safe, span

_GLYPHS = {
    "pending": ("○", "dim"),
    "queued": ("○", "dim"),
    "running": ("●", "cyan"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "timed_out": ("✗", "red"),
    "cancelled": ("■", "yellow"),
    "skipped": ("–", "dim"),
}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR = 20
_QUIET_WORDS = frozenset({"succeeded", "pending", "queued", "running"})


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tree: of a job, or of one of its steps."""

    job: JobState
    step: StepState | None
    text: Text


def mark(status: str, now: float | None = None) -> Text:
    """A status as a sign; a running one turns with the time, where there is one."""
    glyph, style = _GLYPHS.get(status, ("?", "dim"))
    if status == "running" and now is not None:
        glyph = _SPINNER[int(now * 8) % len(_SPINNER)]
    return Text(glyph, style)


def status_text(status: str) -> Text:
    """A status as a word in its colour."""
    return Text(words(status), _GLYPHS.get(status, ("", ""))[1])


def rows(run: RunState, now: float, *, live: bool) -> list[Row]:
    """The tree; ``now`` (Unix seconds) is for what still runs."""
    found = []
    for job in run.jobs.values():
        found.append(Row(job, None, _job_line(job, now, live)))
        found += [Row(job, step, _step_line(step, now, live)) for step in job.steps.values()]
    return found


def fitted(all_rows: list[Row], height: int) -> list[Text]:
    """At most ``height`` lines: the steps of jobs that succeeded or have not begun are folded away first."""
    if len(all_rows) <= height:
        return [row.text for row in all_rows]
    kept = [row for row in all_rows if row.step is None or row.job.status in ("running", *BAD)]
    if len(kept) > height:
        kept = [row for row in kept if _matters(row)]
    hidden = len(all_rows) - len(kept[: height - 1])
    return [*(row.text for row in kept[: height - 1]), Text(f"  … {hidden} more lines", "dim")]


def _matters(row: Row) -> bool:
    status = row.job.status if row.step is None else row.step.status
    return status in ("running", *BAD)


def _job_line(job: JobState, now: float, live: bool) -> Text:
    line = Text.assemble(mark(job.status, now if live else None), " ", (safe(job.name), "bold"))
    _append_end(line, job.status, job.reason, job.started_at, job.finished_at, now)
    return line


def _step_line(step: StepState, now: float, live: bool) -> Text:
    line = Text.assemble("  ", mark(step.status, now if live else None), " ", safe(step.name))
    if step.kept:
        return line.append("  kept from the earlier run", "dim")
    if step.attempt > 1:
        line.append(f"  attempt {step.attempt}", "dim")
    if step.percent is not None and step.status == "running":
        line.append("  ").append_text(_bar(step.percent))
        line.append(f" {step.percent}%").append(f" {safe(step.message)}".rstrip(), "dim")
    _append_end(line, step.status, step.reason, step.started_at, step.finished_at, now)
    return line


def _bar(percent: int) -> Text:
    filled = round(_BAR * percent / 100)
    return Text.assemble(("━" * filled, "cyan"), ("─" * (_BAR - filled), "bright_black"))


def _append_end(
    line: Text, status: str, reason: str, started: float | None, finished: float | None, now: float
) -> None:
    if status not in _QUIET_WORDS:
        line.append("  ").append_text(status_text(status))
    if reason and reason not in (status, words(status)):
        line.append(f"  {safe(reason)}", "red" if status in BAD else "dim")
    if started is not None and status in ("running", *OVER) and status != "skipped":
        line.append(f"  {span((finished if finished is not None else now) - started)}", "dim")


def headline(run: RunState, now: float, *, live: bool) -> Text:
    """The run itself, above its tree."""
    line = Text.assemble(
        mark(run.status, now if live else None), " ", (safe(run.name), "bold"), f"  run {run.id}"
    )
    _append_end(line, run.status, run.reason, run.started_at, run.finished_at, now)
    return line


def last_words(run: RunState) -> Iterator[tuple[StepState, list[str]]]:
    """The failed steps with the last lines they wrote."""
    for step in run.failed_steps():
        if step.tail:
            yield step, list(step.tail)
