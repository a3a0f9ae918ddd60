"""A small terminal emulator with the escape sequences that ``pilot`` writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

from rich.cells import cell_len

from support.waiting import PATIENCE

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """Rows of text; a character of two columns takes two cells."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.rows: list[list[str]] = [[]]
        self.row = self.column = self.top = 0
        self.cursor_shown = True
        self.unknown: list[str] = []
        self._rest = ""

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = _SEQUENCE.match(text, at)
                if match is None:
                    if len(text) - at < 16:
                        self._rest = text[at:]
                        return
                    self.unknown.append(text[at : at + 8])
                    at += 1
                    continue
                self._obey(match[1], match[2])
                at = match.end()
                continue
            self._put(text[at])
            at += 1

    def _obey(self, numbers: str, letter: str) -> None:
        if letter == "A":
            self.row = max(self.top, self.row - int(numbers or 1))
        elif letter == "H":
            self.row, self.column = self.top, 0
        elif letter == "J":
            del self.rows[self.row + 1 :]
            del self.rows[self.row][self.column if numbers != "2" else 0 :]
        elif letter == "K" and not numbers:
            del self.rows[self.row][self.column :]
        elif numbers == "?25":
            self.cursor_shown = letter == "h"
        elif letter != "m":
            self.unknown.append(numbers + letter)

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.rows):
                self.rows.append([])
            self.top = max(self.top, self.row - self.lines + 1)
        else:
            width = cell_len(char)
            if self.column + width > self.columns:
                self._put("\r")
                self._put("\n")
            cells = self.rows[self.row]
            cells.extend(" " * (self.column - len(cells)))
            cells[self.column : self.column + width] = [char, *[""] * (width - 1)]
            self.column += width

    @property
    def visible(self) -> list[str]:
        """What is on the screen now, without what has scrolled away."""
        return ["".join(row).rstrip() for row in self.rows[self.top : self.top + self.lines]]

    @property
    def all(self) -> str:
        """That, too."""
        return "\n".join("".join(row).rstrip() for row in self.rows)


def _as_a_terminal_has_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the tests may have been started with it ignored


class Terminal:
    """A program on a terminal of that size."""

    def __init__(
        self, command: Sequence[str], cwd: str, environment: Mapping[str, str], columns: int, lines: int
    ) -> None:
        self.screen = Screen(columns, lines)
        self._ours, theirs = pty.openpty()
        self._size(columns, lines)
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, "TERM": environment.get("TERM", "xterm-256color")},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=_as_a_terminal_has_it,
            start_new_session=True,
        )
        os.close(theirs)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """The window changes."""
        self._size(columns, lines)
        self.screen.columns, self.screen.lines = columns, lines
        self.screen.top = max(0, len(self.screen.rows) - lines)
        self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        """Somebody types this."""
        os.write(self._ours, text.encode())

    def until(self, words: str | Callable[[list[str]], bool], timeout: float = PATIENCE) -> list[str]:
        """Wait until this is on the screen, or true of it, and nothing wider than it; what is on it then."""
        end = time.monotonic() + timeout
        while True:
            seen = self.screen.visible
            fits = all(cell_len(line) <= self.screen.columns for line in seen)
            if fits and (words(seen) if callable(words) else any(words in line for line in seen)):
                return seen
            assert time.monotonic() < end, f"no {words!r} on\n{self.screen.all}"
            self._read(0.1)

    def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code; all that it wrote is on the screen."""
        end = time.monotonic() + timeout
        while self._read(0.1):
            assert time.monotonic() < end, self.screen.all
        return self.process.wait(timeout)

    def _read(self, seconds: float) -> bool:
        if select.select([self._ours], [], [], seconds)[0]:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:  # the other end is closed
                return False
            self.screen.feed(data.decode("utf-8", "replace"))
            return bool(data)
        return True

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
