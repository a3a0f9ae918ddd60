"""How much work something is, in a unit that grows with the slowness of the machine.

A bound in seconds fails where the machine is slow or busy. CPU time of one process does not count what others do,
and divided by the CPU time of a fixed piece of work at the same moment it hardly counts how fast the machine is.
One unit is about a millisecond of an idle core.
"""

from __future__ import annotations

import statistics
import time

MILLISECOND = 0.001
"""CPU seconds of one unit on an idle core."""


def unit() -> float:
    """CPU seconds of one unit, now."""
    began = time.process_time()
    total = 0
    for at in range(25_000):
        total += at % 7
    return time.process_time() - began


class Effort:
    """The CPU time of this process within a block; ``units`` afterwards."""

    units = 0.0

    def __enter__(self) -> Effort:
        self._units = [unit() for _ in range(5)]
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        spent = time.process_time() - self._began
        self.units = spent / statistics.median(self._units + [unit() for _ in range(5)])
