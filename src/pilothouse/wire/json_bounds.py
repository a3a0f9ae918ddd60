"""Bounds of JSON that callers send, for the server and its workers; standard library only."""

from __future__ import annotations

import math
from typing import Any

MAX_DEPTH = 64
"""Levels of nesting."""
MAX_VALUES = 10_000
"""Values in JSON that the event loop parses: some 10 ms for the most expensive ones."""


class BoundExceeded(ValueError):
    """The JSON exceeds a bound; the message says which."""


def most_values(text: bytes) -> int:
    """An upper bound of the number of values in a JSON text, without parsing it: some ms for 2 MiB."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def check_values(value: Any) -> None:
    """Check the nesting of decoded JSON and its numbers, which JSON cannot hold but Python's decoder accepts.

    Raises :class:`BoundExceeded`.
    """
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise BoundExceeded("A number is NaN or too large")
        level, depth = below, depth + 1
        if depth > MAX_DEPTH + 1:
            raise BoundExceeded(f"it is nested more than {MAX_DEPTH} levels deep")
