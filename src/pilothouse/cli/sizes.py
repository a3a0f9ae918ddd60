"""Parses sizes such as ``512MiB``, or a number of bytes."""

from __future__ import annotations

import re

from pilothouse.cli.errors import UsageError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(?:([kmgt])i?b?|b)?", re.IGNORECASE)
_UNITS = {None: 0, "k": 10, "m": 20, "g": 30, "t": 40}


def size_of(text: str, what: str, least: int = 1) -> int:
    """Parse a size to bytes. ``what`` names the option or variable in the error. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * (1 << _UNITS[match[2] and match[2].lower()])) if match else -1
    if not least <= size < 1 << 50:
        raise UsageError(f"{what}{text!r}: expected a size such as 512MiB, or a number of bytes")
    return size
