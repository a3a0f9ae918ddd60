"""Progress of an upload: a line that is redrawn, plain messages, or JSON lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pilothouse.cli.live import Progress
from pilothouse.cli.output import Output, moves_cursor, write_error, write_utf8
from pilothouse.cli.text import size, span
from pilothouse.wire.times import rfc3339_ms

EVENT = "checkout.upload"

Clock = Callable[[], float]

LONG = 2.0
"""Seconds above which the duration of an upload is printed."""

_FIRST, _FRAME = 0.5, 0.1
"""Seconds before the first and between two frames."""

_EVERY = 1.0
"""Seconds between two JSON events."""


class Upload:
    """Context manager for an upload of ``total`` bytes. Prints a message at the end of long ones."""

    def __init__(self, out: Output, total: int, clock: Clock = time.monotonic) -> None:
        self.out = out
        self.total = total
        self._clock = clock
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if error is None and self.elapsed > LONG:
            self.out.note(f"sent {size(self.total)} in {span(self.elapsed)}")

    def at(self, sent: int) -> None:
        """Report that ``sent`` bytes have been sent; may decrease after a retry."""

    def end(self) -> None:
        """Finish the display."""


class DrawnUpload(Upload):
    """One line on stderr's terminal, redrawn in place and erased at the end. Not shown for short uploads."""

    def __init__(self, out: Output, total: int, clock: Clock = time.monotonic) -> None:
        super().__init__(out, total, clock)
        self._line = ""
        self._next = _FIRST

    def at(self, sent: int) -> None:
        """Draw it."""
        if self.elapsed < self._next:
            return
        self._next = self.elapsed + _FRAME
        rate = f"{size(int(sent / self.elapsed))}/s"
        self._draw(f"sent {size(sent)} of {size(self.total)} ({sent * 100 // self.total}%), {rate}")

    def print(self, text: str, *, style: str | None = None) -> None:
        """Print a message above the line."""
        line = self._line
        self.end()
        self.out.say(text, style or "")
        self._draw(line)

    def end(self) -> None:
        """Erase the line."""
        if self._line:
            write_error("\r\x1b[K")
        self._line, self.out.picture = "", None

    def _draw(self, line: str) -> None:
        self._line, self.out.picture = line, self
        write_error(f"\r{line[: _columns() - 1]}\x1b[K")


class JsonUpload(Upload):
    """Lines ``{"type": "checkout.upload", "time", "data": {"sent", "total"}}`` on stdout, at most one per second.

    The first reports 0 bytes, the last the final count.
    """

    def __init__(self, out: Output, total: int, clock: Clock = time.monotonic) -> None:
        super().__init__(out, total, clock)
        self._sent = 0
        self._written = -1
        self._next = 0.0

    def __enter__(self) -> Self:
        self.at(0)
        return self

    def at(self, sent: int) -> None:
        """Write it."""
        self._sent = sent
        if self.elapsed >= self._next:
            self._next = self.elapsed + _EVERY
            self._write()

    def end(self) -> None:
        """Write the final count."""
        if self._sent != self._written:
            self._write()

    def _write(self) -> None:
        from pilothouse.cli.documents import json_line

        self._written = self._sent
        event = {"type": EVENT, "time": rfc3339_ms(int(time.time() * 1000))}
        write_utf8(json_line({**event, "data": {"sent": self._sent, "total": self.total}}))


def upload_of(out: Output, total: int, progress: Progress) -> Upload:
    """The display for this mode; ``auto`` depends on whether stderr is a terminal."""
    if progress is Progress.JSON:
        return JsonUpload(out, total)
    drawn = progress is not Progress.PLAIN and sys.stderr.isatty() and moves_cursor()
    return DrawnUpload(out, total) if drawn else Upload(out, total)


def _columns() -> int:
    try:
        return max(2, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return 80
