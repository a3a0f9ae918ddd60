"""``pilot run logs``: log lines of a run, job, step or attempt, as text or JSON lines."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli.documents import json_line
from pilothouse.cli.errors import UsageError
from pilothouse.cli.live import PlainView
from pilothouse.cli.logselect import Asked, Selected, beginning, pattern, select, several_jobs
from pilothouse.cli.output import Format, Output, write_utf8
from pilothouse.cli.progress import OVER
from pilothouse.cli.reference import AllPipelines, RunReference, run_id_of, short
from pilothouse.cli.session import Session, command
from pilothouse.cli.text import all_safe, coloured, safe
from pilothouse.cli.watching import detachable, follow
from pilothouse.wire import entries
from pilothouse.wire.times import rfc3339_ms

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Run

_COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95")


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "logs", examples=_EXAMPLES)(logs)


_EXAMPLES = (
    "pilot run logs                          # the newest run of this repository's pipeline",
    "pilot run logs 5f60718a --failed --tail 50",
    "pilot run logs last --step build/compile --attempt 2 --timestamps",
    "pilot run logs last --follow --grep 'error|warning'",
    "pilot run logs last -o json | jq -r .text",
)


def logs(
    session: Session,
    run: RunReference = "last",
    job: Annotated[str, typer.Option(metavar="NAME", help="Filter by job.")] = "",
    step: Annotated[str, typer.Option(metavar="NAME", help="Filter by step: STEP or JOB/STEP.")] = "",
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Filter by attempt number.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed steps.")] = False,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Only lines since a duration (10m) or time (2026-01-10T14:00:00Z)."
        ),
    ] = "",
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Show the last N lines.")] = None,
    grep: Annotated[
        str, typer.Option(metavar="REGEX", help="Only lines that match this regular expression.")
    ] = "",
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Prefix each line with the time the server received it.")
    ] = False,
    no_prefix: Annotated[
        bool, typer.Option("--no-prefix", help="Do not prefix lines of several steps with `job/step | `.")
    ] = False,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log until the run ends.")
    ] = False,
    all_pipelines: AllPipelines = False,
) -> None:
    """Show the log of a run."""
    import asyncio

    if session.out.format is Format.YAML:
        raise UsageError("a log is text, or JSON lines with --output json")
    begin = beginning(since, datetime.now(UTC))
    asked = Asked(job, step, attempt, failed, begin, tail, grep)
    printer = Printer(session.out, pattern(grep), timestamps=timestamps, prefix=not no_prefix)
    if not following:
        asyncio.run(_print_log(session, run, asked, printer, following=False, everywhere=all_pipelines))
        return
    run_id = asyncio.run(_resolved(session, run, everywhere=all_pipelines))
    detachable(session, run_id, _print_log(session, run_id, asked, printer, following=True, everywhere=True))


async def _resolved(session: Session, run: str, *, everywhere: bool) -> str:
    async with session.client() as client:
        return await run_id_of(session, client, run, everywhere=everywhere)


async def _print_log(
    session: Session, run: str, asked: Asked, printer: Printer, *, following: bool, everywhere: bool
) -> str:
    """Print the stored log and, if ``following``, new lines until the run ends; returns the run's status."""
    async with session.client() as client:
        view = await client.runs.get(await run_id_of(session, client, run, everywhere=everywhere))
        selected = select(view, asked, following=following)
        if jobs := several_jobs(view, asked):
            where = f"step {asked.step!r} is in {len(jobs)} jobs ({', '.join(jobs)})"
            session.out.note(f"{where}; one of them: --step {jobs[0]}/{asked.step}")
        printer.begin(selected)
        cursor, status = await _so_far(client, view["id"], asked, selected, printer)
        if following and status not in OVER:
            status = await _rest(session, client, view["id"], cursor, asked, selected, printer) or status
        elif not (printer.printed or following or session.out.structured):
            session.out.note(_nothing(view, selected))
        return status


def _nothing(view: Run, selected: Selected) -> str:
    """Explain an empty log: steps kept by a rerun have their log in the original run."""
    steps = [(job["name"], step) for job in view["jobs"] for step in job["steps"]]
    kept = [s for job, s in steps if s["kept"] and (not selected.steps or (job, s["name"]) in selected.steps)]
    if kept and view["rerun_of"]:
        return f"no lines: kept from the earlier run, see `pilot run logs {short(view['rerun_of'])}`"
    return "no lines"


async def _so_far(
    client: PilotClient, run_id: str, asked: Asked, selected: Selected, printer: Printer
) -> tuple[str, str]:
    """Print the stored log; returns the cursor at its end and the run's status at that point."""
    by_server = selected.exact and not asked.grep
    last: deque[str] = deque(maxlen=None if by_server else asked.tail)
    keep = asked.tail is not None and not by_server
    chunks = client.runs.log_chunks(
        run_id, since=asked.since, tail=asked.tail if by_server else None, **selected.narrowing
    )
    cursor = status = ""
    async with aclosing(chunks) as found:
        async for chunk in found:
            if "cursor" in chunk:
                cursor, status = chunk["cursor"], chunk["status"]
            elif selected.wants(chunk):
                lines = printer.lines(chunk, chunk["time"])
                last.extend(lines) if keep else printer.write(lines)
    printer.write(last)
    printer.flush()
    return cursor, status


async def _rest(
    session: Session,
    client: PilotClient,
    run_id: str,
    cursor: str,
    asked: Asked,
    selected: Selected,
    printer: Printer,
) -> str:
    """Print new lines; returns the run's final status."""
    status = ""
    view = PlainView(sys.stdout, session.out)
    events = follow(session, client, run_id, over=False, connection=view, cursor=cursor)
    async with aclosing(events) as found:
        async for event in found:
            if event.type == entries.RUN_COMPLETED:
                status = event.data["status"]
            elif event.type in (entries.STEP_LOGGED, entries.STEP_LOG_MISSED) and selected.wants(event.data):
                printer.write(printer.lines(event.data, int(event.time.timestamp() * 1000)))
                printer.flush()
    return status


class Printer:
    """Prints log chunks as text or JSON lines on stdout."""

    def __init__(self, out: Output, grep: re.Pattern[str] | None, *, timestamps: bool, prefix: bool) -> None:
        self.printed = False
        self._json = out.structured
        self._grep = grep
        self._timestamps = timestamps
        self._prefix = prefix
        self._colour = out.colour and sys.stdout.isatty()
        self._colours: dict[str, str] = {}

    def begin(self, selected: Selected) -> None:
        """Set the steps whose lines follow."""
        self._prefix = self._prefix and selected.several

    def lines(self, body: Mapping[str, Any], at: int) -> list[str]:
        """The selected lines of a chunk, each with its newline. ``at``: time stored, Unix milliseconds."""
        if "lines" not in body:
            shown = [f"[{safe(str(body.get('message', 'lines are missing')))}]"]
            return list(self._objects(body, at, shown)) if self._json else self._decorated(body, at, shown)
        raw: list[str] = body["lines"]
        if self._json:
            return list(self._objects(body, at, raw))
        if self._colour and any("\x1b" in line for line in raw):
            shown = [f"{coloured(line)}\x1b[0m" if "\x1b" in line else safe(line) for line in raw]
        else:
            shown = all_safe(raw)
        if self._grep is not None:
            shown = [line for line, text in zip(shown, raw, strict=True) if self._grep.search(safe(text))]
        return self._decorated(body, at, shown)

    def _decorated(self, body: Mapping[str, Any], at: int, shown: list[str]) -> list[str]:
        before = f"{rfc3339_ms(at)} " if self._timestamps else ""
        if self._prefix:
            before += self._painted(f"{safe(body.get('job', '?'))}/{safe(body.get('step', '?'))} | ")
        return [f"{before}{line}\n" for line in shown]

    def _painted(self, prefix: str) -> str:
        if not self._colour:
            return prefix
        colour = self._colours.setdefault(prefix, _COLOURS[len(self._colours) % len(_COLOURS)])
        return f"\x1b[{colour}m{prefix}\x1b[0m"

    def _objects(self, body: Mapping[str, Any], at: int, lines: list[str]) -> Iterator[str]:
        missing = "lines" not in body
        errors = frozenset(body.get("stderr", ()))
        for index, line in enumerate(lines):
            if self._grep is None or self._grep.search(safe(line)):
                stream = "missing" if missing else "stderr" if index in errors else "stdout"
                yield json_line(
                    {
                        "job": body.get("job"),
                        "step": body.get("step"),
                        "attempt": body.get("attempt"),
                        "number": None if missing else body.get("first", 1) + index,
                        "time": rfc3339_ms(at),
                        "stream": stream,
                        "text": line,
                    }
                )

    def write(self, lines: Iterator[str] | list[str] | deque[str]) -> None:
        """Print them."""
        lines = list(lines)
        self.printed = self.printed or bool(lines)
        if self._json:
            write_utf8("".join(lines))
        else:
            sys.stdout.writelines(lines)

    def flush(self) -> None:
        """Flush stdout."""
        sys.stdout.flush()
