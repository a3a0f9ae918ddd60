"""What masks the secrets of a run: built once for all attempts that mask the same values, and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict

from pilothouse.wire.masking import Masker

MAX_KEPT = 4 << 20
"""Characters that the kept maskers look for together, but for the one used last; some 20 bytes of memory each."""
MAX_MASKERS = 256


class Maskers:
    """A cache, which any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[frozenset[str], Masker] = OrderedDict()
        self._built: set[frozenset[str]] = set()
        self._lock = threading.Lock()

    def of(self, values: frozenset[str]) -> Masker:
        """Without waiting: what is new builds itself when it is used, little by little."""
        with self._lock:
            found = self._kept.get(values)
            if found is None:
                found = self._kept[values] = Masker(values)
            self._kept.move_to_end(values)
            return found

    def built(self, values: frozenset[str]) -> Masker:
        """Built as a whole. Takes up to a second: to be called in a thread."""
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
        """What `built` gave, if it is still there."""
        with self._lock:
            if values not in self._built:
                return None
            self._kept.move_to_end(values)
            return self._kept[values]
