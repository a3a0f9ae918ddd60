"""A run as a tree of jobs and steps, one line each, for terminals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from pilothouse.cli.progress import BAD, OVER, JobState, RunState, StepState, words
from pilothouse.cli.reference import short
from pilothouse.cli.text import safe, span
from pilothouse.cli.waits import HOLD, waits_for

_GLYPHS = {
    "pending": ("○", "dim"),
    "queued": ("○", "dim"),
    "waiting": ("○", "yellow"),
    "paused": ("○", "yellow"),
    "retrying": ("↻", "yellow"),
    "running": ("●", "cyan"),
    "succeeded": ("✓", "green"),
    "allowed": ("✗", "yellow"),
    "failed": ("✗", "red"),
    "timed_out": ("✗", "red"),
    "cancelled": ("■", "yellow"),
    "skipped": ("–", "dim"),
}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR = 20
_QUIET_WORDS = frozenset({"succeeded", "pending", "queued", "running"})
_LEAST_NAME = 8
"""Minimum width of a name."""

_LEAST_SAID = 5
"""Width below which text is omitted instead of truncated."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line in three parts: name, details, duration.

    If the line is too long, the details are truncated first, then the middle of the name.
    """

    head: Text
    said: Text
    took: Text

    @property
    def text(self) -> Text:
        """The full line."""
        return Text.assemble(self.head, self.said, self.took)

    def fitted(self, width: int) -> Text:
        """The line in at most ``width`` columns."""
        room = width - self.took.cell_len
        if self.head.cell_len + self.said.cell_len <= room:
            return self.text
        left = room - self.head.cell_len
        said = self.said.copy() if left >= _LEAST_SAID else Text()
        said.truncate(max(left, 1), overflow="ellipsis")
        line = Text.assemble(elided(self.head, max(room - said.cell_len, 1)), said, self.took)
        line.truncate(width, overflow="crop")
        return line


def elided(text: Text, width: int) -> Text:
    """A text with its middle elided, at most ``width`` columns wide."""
    if text.cell_len <= width:
        return text
    if width < _LEAST_NAME:
        cut = text.copy()
        cut.truncate(width, overflow="ellipsis")
        return cut
    first = text.copy()
    first.truncate((width - 1) // 2 + (width - 1) % 2, overflow="crop")
    first.rstrip()
    start, plain = len(text), text.plain
    while start > 0 and cell_len(plain[start - 1 :]) <= (width - 1) // 2:
        start -= 1
    return Text.assemble(first, "…", text[start:])


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tree: a job or a step."""

    job: JobState
    step: StepState | None
    line: Line

    @property
    def text(self) -> Text:
        """The full line."""
        return self.line.text

    @property
    def status(self) -> str:
        """Status of its job or step."""
        return self.job.status if self.step is None else self.step.status


def mark(status: str, now: float | None = None) -> Text:
    """The symbol of a status; a spinner for running if a time is given."""
    glyph, style = _GLYPHS.get(status, ("?", "dim"))
    if status == "running" and now is not None:
        glyph = _SPINNER[int(now * 8) % len(_SPINNER)]
    return Text(glyph, style)


def status_text(status: str) -> Text:
    """The status word in its color."""
    return Text(safe(words(status)), _GLYPHS.get(status, ("", ""))[1])


def rows(run: RunState, now: float, *, live: bool) -> list[Row]:
    """The rows of the tree; ``now`` (Unix seconds) is used for running durations."""
    found = []
    for job in run.jobs.values():
        found.append(Row(job, None, _job_line(job, now, live)))
        said = job.waiting is None
        found += [Row(job, step, _step_line(run, step, now, live, said=said)) for step in job.steps.values()]
    return found


def fitted(all_rows: list[Row], height: int, width: int = 1000) -> list[Text]:
    """At most ``height`` lines. Running and failed rows take precedence; omitted ones are counted."""
    if len(all_rows) <= height:
        return [row.line.fitted(width) for row in all_rows]
    for shown in _foldings(all_rows):
        if len(shown) < height:
            return [line.fitted(width) for _job, line in shown] + _summary(all_rows, shown, width)
    order = sorted(range(len(shown)), key=lambda index: shown[index][0].status != "running")
    kept = [shown[index] for index in sorted(order[: max(0, height - 1)])]
    return ([line.fitted(width) for _job, line in kept] + _summary(all_rows, kept, width))[:height]


def _foldings(all_rows: list[Row]) -> Iterator[list[tuple[JobState, Line]]]:
    """Versions of the tree with increasingly fewer inactive rows, each with its jobs."""
    yield [(row.job, row.line) for row in all_rows if row.step is None or _active(row.job)]
    telling = [row for row in all_rows if row.step is None or (_active(row.job) and _matters(row))]
    yield [(row.job, row.line) for row in telling]
    telling = [row for row in telling if _active(row.job)]
    yield [(row.job, row.line) for row in telling]
    steps: dict[int, list[Row]] = {}
    for row in telling:
        steps.setdefault(id(row.job), []).append(row)
    yield [(job.job, _compact(job, rest)) for job, *rest in steps.values()]


def _active(job: JobState) -> bool:
    return job.status in BAD or (job.status == "running" and job.waiting is None)


def _matters(row: Row) -> bool:
    # A queued or retried step is the current one of its job.
    again = row.step is not None and row.step.retry_at is not None
    return again or row.status in ("running", "queued", *BAD)


def _compact(job: Row, steps: list[Row]) -> Line:
    """A job and its current steps in one line."""
    step = next((row for row in steps if row.status == "running"), steps[-1] if steps else None)
    if step is None or step.step is None:
        return job.line
    head = Text.assemble(job.line.head, (" › ", "dim"), safe(step.step.name))
    return Line(head, step.line.said, step.line.took)


def _summary(all_rows: list[Row], shown: list[tuple[JobState, Line]], width: int) -> list[Text]:
    """``… 12 succeeded, 3 waiting, 5 pending``: the omitted jobs."""
    seen = {id(job) for job, _line in shown}
    hidden = [row.job for row in all_rows if row.step is None and id(row.job) not in seen]
    counts = Counter("waiting" if job.waiting is not None else words(job.status) for job in hidden)
    left = len(all_rows) - len(shown)
    told = ", ".join(f"{count} {word}" for word, count in counts.most_common()) or f"{left} more steps"
    if not counts and left <= 0:
        return []
    line = Text(f"  … {told}", "dim")
    line.truncate(width, overflow="ellipsis")
    return [line]


def _job_line(job: JobState, now: float, live: bool) -> Line:
    again = job.retry_at if job.retry_at is not None and job.retry_at > now else None
    shown = "waiting" if job.waiting is not None else "retrying" if again is not None else job.status
    head = Text.assemble(mark(shown, now if live else None), " ", (safe(job.name), "bold"))
    said = Text()
    reason = job.reason if job.waiting is None else job.waiting
    if job.stopping and job.status == "running" and not reason:
        reason = f"{words(job.stopping)}, cleaning up"
    _append_end(said, shown if shown != "retrying" else "running", reason)
    _append_countdown(said, again, now)
    return Line(head, said, _took(job.status, job.started_at, job.finished_at, now))


def _step_line(run: RunState, step: StepState, now: float, live: bool, *, said: bool) -> Line:
    """``said``: show the reason for waiting, unless the job's line does."""
    again = step.retry_at if step.retry_at is not None and step.retry_at > now else None
    allowed = step.status in BAD and run.allows(step)
    if step.waits_at_gate:
        return _gate_line(run, step, now)
    waits = said and step.status == "queued" and step.reason != ""
    shown = "allowed" if allowed else "waiting" if waits else "retrying" if again is not None else step.status
    head = Text.assemble("  ", mark(shown, now if live else None), " ", safe(step.name))
    if step.kept:
        return Line(head, Text("  kept from the earlier run", "dim"), Text())
    told = Text()
    if step.attempt > 1:
        told.append(f"  attempt {step.attempt}", "dim")
    if step.percent is not None and step.status == "running":
        told.append("  ").append_text(_bar(step.percent))
        told.append(f" {step.percent}%").append(f" {safe(step.message)}".rstrip(), "dim")
    _append_end(
        told,
        "waiting" if waits else step.status,
        step.reason if waits or step.status != "queued" else "",
        allowed=allowed,
    )
    _append_countdown(told, again, now)
    return Line(head, told, _took(step.status, step.started_at, step.finished_at, now))


def _gate_line(run: RunState, step: StepState, now: float) -> Line:
    several = step.gate == HOLD and len(run.open_gates(HOLD)) > 1
    told = waits_for(step.gate, step.reason, "" if run.transient else run.id, step.path if several else "")
    head = Text.assemble("  ", mark("waiting"), " ", safe(step.name))
    return Line(head, Text(f"  {safe(told)}", "yellow"), _took(step.status, step.started_at, None, now))


def _bar(percent: int) -> Text:
    filled = round(_BAR * percent / 100)
    return Text.assemble(("━" * filled, "cyan"), ("─" * (_BAR - filled), "bright_black"))


def _append_countdown(line: Text, again: float | None, now: float) -> None:
    if again is not None:
        line.append(f"  retrying in {again - now:.0f} s", "yellow")


def _append_end(line: Text, status: str, reason: str, *, allowed: bool = False) -> None:
    if allowed:
        line.append("  ").append(f"{words(status)}, allowed", "yellow")
    elif status not in _QUIET_WORDS and not reason.startswith(words(status)):
        line.append("  ").append_text(status_text(status))
    if reason and reason not in (status, words(status)):
        line.append(f"  {safe(reason)}", "red" if status in BAD and not allowed else "dim")


def _took(status: str, started: float | None, finished: float | None, now: float) -> Text:
    if started is None or status not in ("running", *OVER) or status == "skipped":
        return Text()
    return Text(f"  {span((finished if finished is not None else now) - started)}", "dim")


def headline(run: RunState, now: float, *, live: bool, width: int = 1000) -> Text:
    """The line of the run above its tree; its id is shortened if necessary."""
    shown_as = "paused" if run.paused else run.status
    head = Text.assemble(mark(shown_as, now if live else None), " ", (safe(run.name), "bold"))
    said = Text()
    _append_end(said, shown_as, run.reason)
    took = _took(run.status, run.started_at, run.finished_at, now)
    for shown in (f"  run {safe(run.id)}", f"  run {safe(short(run.id))}"):
        line = Line(Text.assemble(head, shown), said, took)
        if line.text.cell_len <= width:
            return line.text
    name = elided(head, max(_LEAST_NAME, width - took.cell_len - cell_len(shown)))
    return Line(Text.assemble(name, shown), said, took).fitted(width)
