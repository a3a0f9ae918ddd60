"""Output: results to stdout (table, JSON or YAML), everything else to stderr."""

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
"""Width when stdout is not a terminal: nothing is truncated."""

_GAP = 2
"""Spaces between table columns."""

_NO_CURSOR = frozenset({"", "dumb", "unknown"})
"""Values of TERM for terminals without cursor movement."""

_STYLES = {"red": "31", "yellow": "33", "dim": "2"}


class Format(StrEnum):
    """Output format of results."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Picture(Protocol):
    """A live display on the terminal that stderr is connected to."""

    def print(self, text: str, *, style: str | None = None) -> None:
        """Print a line above it."""


def unwritten(error: OSError) -> Exception:
    """The CliError for a failed write to stdout, with an empty message for a closed pipe.

    Other errors are returned unchanged. Redirects stdout to /dev/null: buffered output could not be written either.
    """
    left = isinstance(error, BrokenPipeError)
    if not left and not _stdout_is_broken():
        return error
    _redirect_to_null(1)
    if left:
        return CliError("", ExitCode.CLOSED_PIPE)
    return CliError(f"cannot write the output: {error.strerror or error}")


def _redirect_to_null(descriptor: int) -> None:
    """Redirect an unwritable standard stream to /dev/null, so that the flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def write_error(text: str) -> None:
    """Write to stderr, ignoring failures."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _redirect_to_null(2)


def moves_cursor() -> bool:
    """Whether the terminal supports cursor movement."""
    return os.environ.get("TERM", "") not in _NO_CURSOR


def _stdout_is_broken() -> bool:
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"")
    except OSError:
        return not isinstance(sys.exc_info()[1], io.UnsupportedOperation)
    return False


def write_utf8(text: str) -> None:
    """Write to stdout in UTF-8 regardless of the locale, as JSON and YAML require."""
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
    """stdout and stderr of one command. ``colour``: write escape sequences on a terminal."""

    def __init__(self, format: Format = Format.TABLE, *, colour: bool = True) -> None:
        self.format = format
        self.colour = colour and not os.environ.get("NO_COLOR")
        self._stdout: Console | None = None
        self._stderr: Console | None = None
        self.picture: Picture | None = None
        """Active live display on stderr's terminal; messages are printed above it."""

    @property
    def structured(self) -> bool:
        """Whether stdout holds a JSON or YAML document."""
        return self.format is not Format.TABLE

    @property
    def stdout(self) -> Console:
        """For results."""
        if self._stdout is None:
            self._stdout = self._console(stderr=False)
        return self._stdout

    @property
    def stderr(self) -> Console:
        """Console for messages."""
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
        """Print a message to stderr, without control characters."""
        clean = "\n".join(safe(line) for line in text.split("\n"))
        if self.picture is not None:
            self.picture.print(clean, style=style or None)
            return
        if style and self.colour and sys.stderr.isatty() and moves_cursor():
            clean = f"\x1b[{_STYLES[style]}m{clean}\x1b[0m"
        write_error(f"{clean}\n")

    def note(self, text: str) -> None:
        """Print a dimmed message to stderr."""
        self.say(text, "dim")

    def document(self, value: Any) -> None:
        """Print a result as JSON or YAML."""
        from pilothouse.cli import documents

        write_utf8(documents.yaml(value) if self.format is Format.YAML else documents.json(value))

    def show(self, renderable: RenderableType) -> None:
        """Print a human-readable result."""
        if self.stdout.is_terminal:
            self.stdout.print(renderable)
            return
        with self.stdout.capture() as captured:
            self.stdout.print(renderable)
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
        sys.stdout.flush()

    def line(self, text: str) -> None:
        """Print one plain line of a result."""
        sys.stdout.write(safe(text) + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Print a file's text: unchanged to a file or pipe, without control characters to a terminal."""
        if sys.stdout.isatty():
            text = "".join(f"{safe(line)}\n" for line in text.splitlines())
        write_utf8(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """Print a table; if it has no rows, print ``empty`` to stderr. The last column is truncated first."""
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
        """Print properties, one per line; empty ones are omitted."""
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
    """Column widths of a table for a terminal with ``room`` columns.

    The last columns shrink first, the first two (the row's identity) last.
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
