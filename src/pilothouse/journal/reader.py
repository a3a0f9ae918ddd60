"""A reader: a cursor over the journal and the entries after it, without I/O.

Replay and live delivery share one path: :meth:`Reader.take` returns messages from memory. If the cursor is
:attr:`~Reader.behind` the window, a page from disk is passed to :meth:`Reader.accept`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pilothouse.journal.model import Cursor, Entry, Frame, Sees, Selection, WireFormat
from pilothouse.journal.window import Window

BATCH_BYTES = 64 << 10
_SLICE = 64


@dataclass(slots=True)
class Reader:
    """A reader of a selection of the journal in one wire format.

    ``live``: it has received all published entries.
    """

    window: Window
    selection: Selection
    fmt: WireFormat
    sees: Sees
    position: Cursor
    ended: bool = False
    live: bool = False

    @property
    def behind(self) -> bool:
        """Whether the next entries must be loaded from disk."""
        return self.position.offset < self.window.start

    def published(self, first: int) -> None:
        """Notify of new entries of this reader's stream in the window, from offset ``first`` on.

        A live reader skips the entries of other streams before ``first``.
        """
        if self.live and self.position.offset < first:
            self.position = Cursor(first)
        self.live = False

    def costly(self, page: list[Entry] | None) -> list[Entry]:
        """Those of the page, or of what the next :meth:`take` returns, that are better encoded in a thread before."""
        entries, left = page, sys.maxsize
        if entries is None:
            if self.ended or self.behind:
                return []
            entries, left = (
                self.window.since(self.selection.stream, self.position.offset, _SLICE),
                BATCH_BYTES,
            )
        found = []
        for entry in entries:
            if self.selection.wants(entry):
                left -= len(entry.data)
                if entry.costly(self.fmt) and self.sees(entry.scope):
                    found.append(entry)
            if left <= 0:
                break
        return found

    def take(self, budget: int = BATCH_BYTES) -> list[bytes]:
        """Messages after the cursor, from memory; advances the cursor. Empty: there are none now."""
        out: list[bytes] = []
        while not self.ended and not self.behind and budget > 0:
            batch = self.window.since(self.selection.stream, self.position.offset, _SLICE)
            if not batch:
                self.position = max(self.position, Cursor(self.window.head))
                self.live = True
                break
            budget = self._deliver(batch, out, budget)
        return out

    def accept(self, page: list[Entry], more: bool, head: int) -> list[bytes]:
        """Messages of a page loaded at the cursor; ``head`` is the window's head before the load."""
        out: list[bytes] = []
        self._deliver(page, out, sys.maxsize)
        if not more and not self.ended:
            self.position = max(self.position, Cursor(head))
        return out

    def _deliver(self, batch: list[Entry], out: list[bytes], budget: int) -> int:
        for entry in batch:
            if self.selection.wants(entry) and self.sees(entry.scope):
                for frame in self._pending(entry):
                    out.append(frame.data)
                    budget -= len(frame.data)
                if self.fmt.ends(entry):
                    self.ended = True
            self.position = Cursor(entry.offset + 1)
            if self.ended or budget <= 0:
                break
        return budget

    def _pending(self, entry: Entry) -> tuple[Frame, ...]:
        k = self.position.k if entry.offset == self.position.offset else 0
        if not k:
            return entry.frames(self.fmt)
        if "lines" in entry.body:
            rest = entry.tail(k)
            return rest.frames(self.fmt) if rest.body["lines"] else ()
        return entry.frames(self.fmt)[k:]
