"""A cache of maskers: one is built for all attempts that mask the same values."""

from __future__ import annotations

import threading
from collections import OrderedDict

from pilothouse.wire.masking import Masker

MAX_KEPT = 4 << 20
"""Characters that the kept maskers look for together, but for the one used last; some 20 bytes of memory each."""
MAX_MASKERS = 256


class Maskers:
    """A thread-safe cache."""

    def __init__(self) -> None:
        self._kept: OrderedDict[frozenset[str], Masker] = OrderedDict()
        self._built: set[frozenset[str]] = set()
        self._lock = threading.Lock()

    def of(self, values: frozenset[str]) -> Masker:
        """The masker of these values, without waiting: a new one is built incrementally when it is used."""
        with self._lock:
            found = self._kept.get(values)
            if found is None:
                found = self._kept[values] = Masker(values)
            self._kept.move_to_end(values)
            return found

    def built(self, values: frozenset[str]) -> Masker:
        """The masker of these values, fully built. Takes up to a second: call it in a thread."""
        found = self.of(values).complete()
        with self._lock:
            self._kept[values] = found
            self._built.add(values)
            size = sum(masker.size for masker in self._kept.values())
            while len(self._kept) > 1 and (size > MAX_KEPT or len(self._kept) > MAX_MASKERS):
                values, masker = self._kept.popitem(last=False)
                size -= masker.size
                self._built.discard(values)
        return found

    def ready(self, values: frozenset[str]) -> Masker | None:
        """The cached result of `built`, if there is one."""
        with self._lock:
            if values not in self._built:
                return None
            self._kept.move_to_end(values)
            return self._kept[values]
