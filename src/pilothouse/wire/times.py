"""Times as text: RFC 3339 in UTC with ``Z``."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(ms: int) -> str:
    """A time in ms since 1970, in whole seconds: ``2026-01-10T14:23:45Z``."""
    return utc_text(datetime.fromtimestamp(ms // 1000, UTC), "seconds")


def rfc3339_ms(ms: int) -> str:
    """A time in ms since 1970, in milliseconds: ``2026-01-10T14:23:45.678Z``."""
    return utc_text(datetime.fromtimestamp(ms / 1000, UTC), "milliseconds")


def utc_text(time: datetime, precision: str = "auto") -> str:
    """A UTC time; ``precision`` is the ``timespec`` of :meth:`datetime.isoformat`."""
    return time.isoformat(timespec=precision).replace("+00:00", "Z")
