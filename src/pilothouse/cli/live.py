"""Live display of a run: a tree on terminals, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Protocol, Self, TextIO

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.cli.output import Output, moves_cursor, write_error, write_utf8
from pilothouse.cli.progress import RunState
from pilothouse.cli.text import coloured, safe
from pilothouse.wire import entries
from pilothouse.wire.times import utc_text

if TYPE_CHECKING:
    import asyncio

    from rich.text import Text

    from pilothouse.cli.screen import Screen
    from pilothouse.client import Event

_FRAME = 0.125
_LOG_LINES = 10


class Progress(StrEnum):
    """Mode of the live display."""

    AUTO = "auto"
    TTY = "tty"
    PLAIN = "plain"
    JSON = "json"


ProgressOption = Annotated[
    Progress,
    typer.Option(
        "--progress",
        envvar=["PILOT_PROGRESS"],
        show_envvar=True,
        help="Progress output: live tree (tty), lines (plain) or JSON lines (json); auto: tree on a terminal.",
    ),
]


class View(Protocol):
    """Displays a run while it is followed; an async context manager."""

    async def __aenter__(self) -> Self:
        """Start the display."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display and restore the terminal."""

    def take(self, event: Event) -> None:
        """Show one entry."""

    def lost(self, reason: str) -> None:
        """The connection was lost; the reader reconnects."""

    def back(self) -> None:
        """The connection was restored."""

    def conclude(self) -> None:
        """The run has ended."""


def _on_terminal() -> bool:
    return sys.stdout.isatty() and moves_cursor()


def require_terminal(progress: Progress) -> None:
    """Raises UsageError for a tree without a suitable terminal. Called before anything is started."""
    if progress is Progress.TTY and not _on_terminal():
        raise UsageError(
            f"--progress tty needs a terminal on stdout that can move its cursor ({_terminal()})"
        )


def view_of(out: Output, run: RunState, progress: Progress = Progress.AUTO) -> View:
    """The view for this mode and output."""
    if progress is Progress.JSON:
        return JsonView(out, run)
    if out.structured:
        return PlainView(sys.stderr, out, run)
    if progress is Progress.PLAIN or not _on_terminal():
        return PlainView(sys.stdout, out, run)
    return LiveView(out, run)


def _terminal() -> str:
    return f"TERM is {os.environ.get('TERM', '')!r}" if sys.stdout.isatty() else "there is none"


class PlainView:
    """One line per change, flushed immediately."""

    def __init__(self, stream: TextIO, out: Output, run: RunState | None = None) -> None:
        self._stream = stream
        self._out = out
        self._run = run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not sys.stderr:
            self._stream.flush()

    def take(self, event: Event) -> None:
        """Tell it."""
        from pilothouse.cli.narration import narrate

        lines = narrate(event.type, event.data, event.time.timestamp(), allowed=self._allowed(event))
        if not lines:
            return
        text = "\n".join(lines) + "\n"
        if self._stream is sys.stderr:
            write_error(text)
        else:
            self._stream.write(text)
            self._stream.flush()

    def _allowed(self, event: Event) -> bool:
        if self._run is None or event.type != entries.STEP_COMPLETED:
            return False
        return self._run.allows(self._run.step(event.data))

    def lost(self, reason: str) -> None:
        """Reported once, on stderr."""
        self._out.note(f"connection lost ({reason}); reconnecting")

    def back(self) -> None:
        """Not reported; the next entries show it."""

    def conclude(self) -> None:
        """The last entry shows the result; for a failure, print the failed steps' logs and commands to stderr."""
        from pilothouse.cli.advice import last_lines, next_commands

        if self._run is not None:
            for line in (*last_lines(self._run), *next_commands(self._run)):
                self._out.say(line)


class JsonView:
    """Every entry as one line of JSON on stdout: ``{"type", "time", "data"}``, as in docs/streams.md."""

    def __init__(self, out: Output, run: RunState) -> None:
        self._out = out
        self._run = run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()

    def take(self, event: Event) -> None:
        """Write it."""
        from pilothouse.cli.documents import json_line

        at = utc_text(event.time, "milliseconds")
        write_utf8(json_line({"type": event.type, "time": at, "data": event.data}))

    def lost(self, reason: str) -> None:
        """Reported once, on stderr."""
        self._out.note(f"connection lost ({reason}); reconnecting")

    def back(self) -> None:
        """Not reported; the next entries show it."""

    def conclude(self) -> None:
        """Nothing to do: the last entry has the result."""


class LiveView:
    """A tree with the last log lines, redrawn in place; at the end the final state is printed."""

    def __init__(self, out: Output, run: RunState) -> None:
        from pilothouse.cli.screen import Screen

        self._out = out
        self._run = run
        self._lost_at: float | None = None
        self._screen: Screen = Screen(out.stdout)
        self._drawing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        import asyncio

        self._screen.open()
        if sys.stderr.isatty():
            self._out.picture = self._screen
        self._drawing = asyncio.create_task(self._draw())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        self._out.picture = None
        if self._drawing is not None:
            self._drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drawing
        self._screen.close()

    async def _draw(self) -> None:
        # In the event loop, not in a thread, so that the state does not change while it is drawn.
        import asyncio

        while True:
            self._screen.draw(self.render())
            await asyncio.sleep(_FRAME)

    def take(self, event: Event) -> None:
        """Nothing to do: the next frame shows the state."""

    def lost(self, reason: str) -> None:
        """Shown in the frame, and on stderr if it is not the terminal."""
        self._lost_at = time.time()
        if not sys.stderr.isatty():
            self._out.note(f"connection lost ({reason}); reconnecting")

    def back(self) -> None:
        """Resume the animation."""
        self._lost_at = None

    def render(self) -> list[Text]:
        """One frame. While the connection is lost, only the time since then changes."""
        from rich.text import Text

        from pilothouse.cli.tree import fitted, headline, rows

        lost_at, clock = self._lost_at, time.time()
        now = clock if lost_at is None else lost_at
        width, height = self._screen.size
        height -= 1
        logs = list(self._run.tail)[-min(_LOG_LINES, max(0, height // 3)) :] if height >= 6 else []
        head = [headline(self._run, now, live=True, width=width)]
        if lost_at is not None:
            head.append(Text(f"  connection lost; reconnecting for {clock - lost_at:.0f} s", "yellow"))
        room = max(1, height - len(head) - (len(logs) + 1 if logs else 0))
        lines = [*head, *fitted(rows(self._run, now, live=True), room, width)]
        if logs:
            lines.append(Text(""))
            lines += [self._log_line(_prefix(step.path, width), line) for step, line in logs]
        return lines

    def conclude(self) -> None:
        """Print the full tree, the last log lines of failed steps, the result, and suggested commands."""
        from pilothouse.cli.advice import last_lines, next_commands
        from pilothouse.cli.tree import headline, rows

        now, out = time.time(), self._out.stdout
        for row in rows(self._run, now, live=False):
            out.print(row.text)
        for line in last_lines(self._run):
            out.print(self._log_line("", line), soft_wrap=True)
        out.print()
        out.print(headline(self._run, now, live=False))
        for line in next_commands(self._run, out.width):
            out.print(line, soft_wrap=True)

    def _log_line(self, prefix: str | Text, line: str) -> Text:
        from rich.text import Text

        shown = Text.from_ansi(coloured(line)) if self._out.colour else Text(safe(line))
        return Text.assemble((prefix, "dim") if isinstance(prefix, str) else prefix, shown)


def _prefix(path: str, width: int) -> Text:
    """``job/step │ ``, in at most a third of the line."""
    from rich.text import Text

    from pilothouse.cli.tree import elided

    return Text.assemble(elided(Text(safe(path), "dim"), max(12, width // 3)), (" │ ", "dim"))
