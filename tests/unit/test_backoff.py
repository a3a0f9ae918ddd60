"""Delays double up to a limit, with jitter."""

from __future__ import annotations

from pilothouse.wire.backoff import Backoff


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(1.0, 5.0)
    for expected in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert expected / 2 <= backoff.delay() <= expected


def test_reset_starts_again() -> None:
    backoff = Backoff(1.0, 5.0)
    for _ in range(4):
        backoff.delay()
    backoff.reset()
    assert backoff.delay() <= 1.0
