"""Where words go: results to stdout (table, JSON or YAML), everything else to stderr."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from pilothouse.cli.errors import CliError, ExitCode
from pilothouse.cli.text import safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDE = 10_000
"""Columns of a stdout that is no terminal: nothing is cut for a pipe."""

_GAP = 2
"""Columns between two columns of a table."""

_NO_CURSOR = frozenset({"", "dumb", "unknown"})
"""Values of TERM for terminals that can only add lines at the end."""

_STYLES = {"red": "31", "yellow": "33", "dim": "2"}


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Picture(Protocol):
    """What is being drawn on the terminal that is also stderr."""

    def print(self, text: str, *, style: str | None = None) -> None:
        """Say something above it."""


def unwritten(error: OSError) -> Exception:
    """The CliError for a write to stdout that failed, with an empty message if only its reader has left.

    Any other error is given back. Lets go of stdout: what is still buffered could not be written either.
    """
    left = isinstance(error, BrokenPipeError)
    if not left and not _stdout_is_broken():
        return error
    _let_go(1)
    if left:
        return CliError("", ExitCode.CLOSED_PIPE)
    return CliError(f"cannot write the output: {error.strerror or error}")


def _let_go(descriptor: int) -> None:
    """Point a standard stream that cannot be written to nowhere: nothing is tried again at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def write_error(text: str) -> None:
    """Write to stderr; what cannot be written there is lost, and changes nothing else."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _let_go(2)


def moves_cursor() -> bool:
    """Whether the terminal can draw over what it has drawn."""
    return os.environ.get("TERM", "") not in _NO_CURSOR


def _stdout_is_broken() -> bool:
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"")
    except OSError:
        return not isinstance(sys.exc_info()[1], io.UnsupportedOperation)
    return False


def write_utf8(text: str) -> None:
    """Write to stdout in UTF-8, whatever the locale: JSON and YAML are nothing else."""
    data = text.encode("utf-8", "backslashreplace")
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(data.decode())
        sys.stdout.flush()
        return
    buffer.write(data)
    buffer.flush()


class Output:
    """The two streams of one command. ``colour``: escape sequences are welcome (on a terminal)."""

    def __init__(self, format: Format = Format.TABLE, *, colour: bool = True) -> None:
        self.format = format
        self.colour = colour and not os.environ.get("NO_COLOR")
        self._stdout: Console | None = None
        self._stderr: Console | None = None
        self.picture: Picture | None = None
        """Draws a moving picture on the terminal that is also stderr: sentences go above it, through it."""

    @property
    def structured(self) -> bool:
        """Whether stdout is to hold one document for a program."""
        return self.format is not Format.TABLE

    @property
    def stdout(self) -> Console:
        """For results."""
        if self._stdout is None:
            self._stdout = self._console(stderr=False)
        return self._stdout

    @property
    def stderr(self) -> Console:
        """For everything else."""
        if self._stderr is None:
            self._stderr = self._console(stderr=True)
        return self._stderr

    def _console(self, *, stderr: bool) -> Console:
        from rich.console import Console

        on_terminal = (sys.stderr if stderr else sys.stdout).isatty()
        return Console(
            stderr=stderr,
            color_system="auto" if self.colour else None,
            width=None if on_terminal else _WIDE,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def say(self, text: str, style: str = "") -> None:
        """A sentence for a person, on stderr; what a terminal would obey is taken out of it."""
        clean = "\n".join(safe(line) for line in text.split("\n"))
        if self.picture is not None:
            self.picture.print(clean, style=style or None)
            return
        if style and self.colour and sys.stderr.isatty() and moves_cursor():
            clean = f"\x1b[{_STYLES[style]}m{clean}\x1b[0m"
        write_error(f"{clean}\n")

    def note(self, text: str) -> None:
        """A sentence of little weight."""
        self.say(text, "dim")

    def document(self, value: Any) -> None:
        """A result as JSON or YAML."""
        from pilothouse.cli import documents

        write_utf8(documents.yaml(value) if self.format is Format.YAML else documents.json(value))

    def show(self, renderable: RenderableType) -> None:
        """A result for people."""
        if self.stdout.is_terminal:
            self.stdout.print(renderable)
            return
        with self.stdout.capture() as captured:
            self.stdout.print(renderable)
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
        sys.stdout.flush()

    def line(self, text: str) -> None:
        """One plain line of a result."""
        sys.stdout.write(safe(text) + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """A file's text: byte by byte into a file or pipe, made safe on a terminal."""
        if sys.stdout.isatty():
            text = "".join(f"{safe(line)}\n" for line in text.splitlines())
        write_utf8(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """A list; ``empty`` is said (on stderr) if there is nothing in it. The last column gives way first."""
        if not rows:
            self.note(empty)
            return
        from rich.table import Table
        from rich.text import Text

        cells = [[cell if isinstance(cell, Text) else Text(safe(str(cell))) for cell in row] for row in rows]
        widths = [max(len(name), *(row[at].cell_len for row in cells)) for at, name in enumerate(columns)]
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for column, width in zip(columns, _fitted(widths, self.stdout.width), strict=True):
            table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=width)
        for row in cells:
            table.add_row(*row)
        self.show(table)

    def fields(self, pairs: Sequence[tuple[str, object]]) -> None:
        """One thing's properties, one a line; those that are empty are left out."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in pairs:
            if value not in ("", None, {}, []):
                grid.add_row(name, value if isinstance(value, Text) else Text(safe(str(value))))
        self.show(grid)


def _fitted(widths: Sequence[int], room: int) -> list[int]:
    """The widths of a table's columns where a terminal has ``room`` columns.

    The last ones give way first, those that say what a row is about (the first two) last.
    """
    fitted = list(widths)
    over = sum(widths) + _GAP * (len(widths) - 1) - room
    telling, others = range(min(2, len(fitted))), range(2, len(fitted))
    for places in (others, telling):
        for least in (6, 1):
            for at in reversed(places):
                given = min(max(over, 0), max(fitted[at] - least, 0))
                fitted[at] -= given
                over -= given
    return fitted
