"""A run while it happens: a tree that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from pilothouse.cli.narration import narrate
from pilothouse.cli.output import Output
from pilothouse.cli.progress import RunState
from pilothouse.cli.text import coloured, safe

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from pilothouse.client import Event

_FRAME = 0.125
_LOG_LINES = 10


class View(Protocol):
    """Shows a run; used as an async context manager for as long as the run is followed."""

    async def __aenter__(self) -> Self:
        """Begin to show."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; leave the screen tidy."""

    def take(self, event: Event) -> None:
        """Show one entry."""

    def lost(self, reason: str) -> None:
        """The connection is gone; somebody tries to come back."""

    def back(self) -> None:
        """The connection is there again."""

    def conclude(self) -> None:
        """The run is over."""


def view_of(out: Output, run: RunState) -> View:
    """The view that suits the output."""
    if out.structured:
        return PlainView(sys.stderr, out)
    return LiveView(out, run) if sys.stdout.isatty() else PlainView(sys.stdout, out)


class PlainView:
    """One line a change, flushed at once."""

    def __init__(self, stream: TextIO, out: Output) -> None:
        self._stream = stream
        self._out = out

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def take(self, event: Event) -> None:
        """Tell it."""
        lines = narrate(event.type, event.data, event.time.timestamp())
        if lines:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()

    def lost(self, reason: str) -> None:
        """Said once, on stderr."""
        self._out.note(f"connection lost ({safe(reason)}); reconnecting")

    def back(self) -> None:
        """What comes next says it."""

    def conclude(self) -> None:
        """Said already, by the run's last entry."""


class LiveView:
    """A tree with the last lines of the log below it, redrawn in place; at the end a still picture."""

    def __init__(self, out: Output, run: RunState) -> None:
        from rich.live import Live

        self._out = out
        self._run = run
        self._lost_at: float | None = None
        self._live = Live(
            console=out.stdout,
            get_renderable=self.render,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
            vertical_overflow="crop",
        )
        self._drawing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._live.start()
        if sys.stderr.isatty():
            self._out.picture = self._out.stdout
        self._drawing = asyncio.create_task(self._draw())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drawing
        self._live.stop()
        self._out.picture = None

    async def _draw(self) -> None:
        # In the event loop, not in a thread of rich's: the state must not change while it is drawn.
        while True:
            self._live.refresh()
            await asyncio.sleep(_FRAME)

    def take(self, event: Event) -> None:
        """The next frame shows it: the state has it already."""

    def lost(self, reason: str) -> None:
        """Said in the picture from now on; and on stderr if that goes elsewhere."""
        self._lost_at = time.time()
        if not sys.stderr.isatty():
            self._out.note(f"connection lost ({safe(reason)}); reconnecting")

    def back(self) -> None:
        """The picture moves again."""
        self._lost_at = None

    def render(self) -> Group:
        """One frame. While the connection is lost it stands still, but for how long that has been so."""
        from rich.console import Group
        from rich.text import Text

        from pilothouse.cli.tree import fitted, headline, rows

        lost_at, clock = self._lost_at, time.time()
        now = clock if lost_at is None else lost_at
        height = self._out.stdout.size.height - 1
        logs = list(self._run.tail)[-min(_LOG_LINES, max(0, height // 3)) :]
        head = [headline(self._run, now, live=True)]
        if lost_at is not None:
            head.append(Text(f"  connection lost; reconnecting for {clock - lost_at:.0f} s", "yellow"))
        room = max(3, height - len(head) - (len(logs) + 1 if logs else 0))
        lines = [*head, *fitted(rows(self._run, now, live=True), room)]
        if logs:
            lines += [Text(""), *(self._log_line(f"{safe(step.path)} │ ", line) for step, line in logs)]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)

    def conclude(self) -> None:
        """The whole tree, the last words of what failed, and the outcome."""
        from rich.text import Text

        from pilothouse.cli.tree import headline, last_words, rows

        now, out = time.time(), self._out.stdout
        for row in rows(self._run, now, live=False):
            out.print(row.text, soft_wrap=True)
        for step, tail in last_words(self._run):
            out.print(Text(f"\nlast lines of {safe(step.path)}:", "bold"))
            for line in tail:
                out.print(self._log_line("  ", line), soft_wrap=True)
        out.print()
        out.print(headline(self._run, now, live=False), soft_wrap=True)

    def _log_line(self, prefix: str, line: str) -> Text:
        from rich.text import Text

        shown = Text.from_ansi(coloured(line)) if self._out.colour else Text(safe(line))
        return Text.assemble((prefix, "dim"), shown)
