"""Durations as text: ``30s``, ``5m``, ``1h30m`` (decisions.md, "Arcentra")."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SECONDS = 366 * 86400.0
EXPECTED = "a duration such as 30s, 5m or 1h30m"

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|[dhms])")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?\Z")


class DurationError(ValueError):
    """The text is not an accepted duration; the message says why."""

    code = "DURATION_INVALID"


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration. ``seconds``: rounded to milliseconds; ``text``: its canonical form."""

    seconds: float
    text: str


def parse_duration(text: str, *, most: float = MAX_SECONDS) -> Duration:
    """Parse a sum of numbers with the units d, h, m, s, ms. Raises DurationError, also above ``most`` seconds."""
    given = text.strip()
    if _NUMBER.match(given):
        raise DurationError(f'"{given[:40]}" has no unit: did you mean {given[:40]}s?')
    seconds, position = 0.0, 0
    while position < len(given):
        part = _PART.match(given, position)
        if part is None:
            raise DurationError(f'"{given[:40]}" is not a duration')
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not given:
        raise DurationError("the duration is empty")
    if seconds > most:
        raise DurationError(f'"{given[:40]}" is longer than a year')
    milliseconds = round(seconds * 1000)
    return Duration(milliseconds / 1000, format_duration(milliseconds))


def duration_text(seconds: float) -> str:
    """The canonical text of seconds, to the millisecond."""
    return format_duration(round(seconds * 1000))


def format_duration(milliseconds: int) -> str:
    """The canonical text: ``1h30m``, ``1m30s``, ``1s250ms``; zero is ``0s``."""
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
