"""RFC 3339 texts of stored times."""

from __future__ import annotations

from pilothouse.wire.times import rfc3339, rfc3339_ms


def test_whole_seconds_are_cut_off() -> None:
    assert rfc3339(1_768_055_025_999) == "2026-01-10T14:23:45Z"


def test_milliseconds_are_kept() -> None:
    assert rfc3339_ms(1_768_055_025_678) == "2026-01-10T14:23:45.678Z"
    assert rfc3339_ms(1_768_055_025_000) == "2026-01-10T14:23:45.000Z"
