"""Durations in options: ``30s``, ``12h``, ``30d``."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.wire.durations import DurationError, parse_duration

DurationText = Annotated[
    str, typer.Option(metavar="DURATION", help="Duration such as 12h or 30d. [default: never]")
]


def seconds(text: str) -> int | None:
    """Parse a duration to whole seconds; ``None`` if empty. Raises UsageError."""
    if not text:
        return None
    try:
        given = parse_duration(text, most=math.inf).seconds
    except DurationError:
        given = math.nan
    if not given.is_integer():
        raise UsageError(f"{text!r} is not a duration such as 90s, 12h or 30d")
    return int(given)
