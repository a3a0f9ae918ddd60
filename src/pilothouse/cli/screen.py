"""A region at the bottom of a terminal that is redrawn in place; other output is printed above it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


class Screen:
    """Draws frames of at most the terminal's height, each replacing the previous one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn = 0
        self._drawn_for = (0, 0)
        self._frame: Sequence[Text] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Current columns and lines of the terminal."""
        width, height = self._console.size
        return max(1, width), max(1, height)

    def open(self) -> None:
        """Begin."""
        sys.stdout.write(_HIDE_CURSOR)

    def close(self) -> None:
        """Erase the frame and restore the cursor."""
        sys.stdout.write(self._erased() + _SHOW_CURSOR)
        sys.stdout.flush()
        self._drawn, self._frame = 0, ()

    def draw(self, frame: Sequence[Text]) -> None:
        """Draw a frame in one write."""
        size = self.size
        # After a resize the old lines may have been rewrapped or moved: their position is
        # unknown.
        start = _CLEAR_SCREEN if self._drawn and size != self._drawn_for else self._erased()
        shown = frame[: max(1, size[1] - 1)]
        sys.stdout.write(start + self._rendered(shown))
        sys.stdout.flush()
        self._drawn, self._drawn_for, self._frame = len(shown), size, frame

    def print(self, text: str, *, style: str | None = None) -> None:
        """Print a line above the frame."""
        sys.stdout.write(self._erased())
        sys.stdout.flush()
        self._drawn = 0
        self._console.print(text, style=style, soft_wrap=True)
        self.draw(self._frame)

    def _erased(self) -> str:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        return f"\r{up}\x1b[J"

    def _rendered(self, frame: Sequence[Text]) -> str:
        with self._console.capture() as captured:
            for line in frame:
                self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        return captured.get()
