"""A cache of maskers: one is built for all attempts that mask the same values."""

from __future__ import annotations

import threading
from collections import OrderedDict

from pilothouse.wire.masking import Masker

MAX_MASKERS = 256
SHORT_VALUES, SHORT_LINES = 2048, 64
"""Characters and lines of all values that are searched for on the event loop or in a transaction."""
FEW = 10_000
"""Occurrences in one text that are masked there."""
HIDDEN = "(the agent's message is not shown: it could not be searched for secrets)"
"""In place of a text that could not be masked."""


def short(values: frozenset[str]) -> bool:
    """Whether texts may be searched for these values on the event loop, or a short one in a transaction."""
    lines = len(values) + sum(value.count("\n") for value in values)
    return lines <= SHORT_LINES and sum(map(len, values)) <= SHORT_VALUES


class Maskers:
    """A thread-safe cache of maskers of few values, which take some 10 ms to build."""

    def __init__(self) -> None:
        self._kept: OrderedDict[frozenset[str], Masker] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, values: frozenset[str]) -> Masker:
        """The masker of these values."""
        with self._lock:
            found = self._kept.get(values)
            if found is None:
                found = self._kept[values] = Masker(values).complete()
                if len(self._kept) > MAX_MASKERS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(values)
            return found
