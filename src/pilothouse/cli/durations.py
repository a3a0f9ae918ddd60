"""Durations on the command line: ``30s``, ``12h``, ``30d``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from pilothouse.cli.errors import UsageError

DurationText = Annotated[str, typer.Option(metavar="DURATION", help="Such as 12h or 30d; left out: never.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:[0-9]{1,9}[smhd])+")


def seconds(text: str) -> int | None:
    """Whole seconds; ``None`` for nothing. Raises UsageError."""
    if not text:
        return None
    if not _DURATION.fullmatch(text):
        raise UsageError(f"{text!r} is no duration, such as 90s, 12h or 30d")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text))
