"""Where words go: results to stdout (table, JSON or YAML), everything else to stderr."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pilothouse.cli.errors import CliError, ExitCode
from pilothouse.cli.text import safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDE = 10_000
"""Columns of a stdout that is no terminal: nothing is cut for a pipe."""


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def unwritten(error: OSError) -> Exception:
    """The CliError for a write to stdout that failed, with an empty message if only its reader has left.

    Any other error is given back. Lets go of stdout: what is still buffered could not be written either.
    """
    left = isinstance(error, BrokenPipeError)
    if not left and not _stdout_is_broken():
        return error
    with contextlib.suppress(OSError, ValueError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if left:
        return CliError("", ExitCode.CLOSED_PIPE)
    return CliError(f"cannot write the output: {error.strerror or error}")


def _stdout_is_broken() -> bool:
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"")
    except OSError:
        return not isinstance(sys.exc_info()[1], io.UnsupportedOperation)
    return False


class Output:
    """The two streams of one command. ``colour``: escape sequences are welcome (on a terminal)."""

    def __init__(self, format: Format = Format.TABLE, *, colour: bool = True) -> None:
        self.format = format
        self.colour = colour and not os.environ.get("NO_COLOR")
        self._stdout: Console | None = None
        self._stderr: Console | None = None
        self.picture: Console | None = None
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
        """A sentence for a person, on stderr."""
        (self.picture or self.stderr).print(text, style=style or None, soft_wrap=True)

    def note(self, text: str) -> None:
        """A sentence of little weight."""
        self.say(text, "dim")

    def document(self, value: Any) -> None:
        """A result as JSON or YAML."""
        if self.format is Format.YAML:
            import yaml

            text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
        else:
            import orjson

            text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()

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
        """One plain line of a result, as it is."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """A list; ``empty`` is said (on stderr) if there is nothing in it. The last column gives way first."""
        if not rows:
            self.note(empty)
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=None)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(safe(str(cell))) for cell in row))
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
