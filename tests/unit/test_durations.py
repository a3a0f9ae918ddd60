from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.wire.durations import Duration, DurationError, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("30s", 30.0, "30s"),
        ("5m", 300.0, "5m"),
        ("1h30m", 5400.0, "1h30m"),
        ("90m", 5400.0, "1h30m"),
        ("1.5h", 5400.0, "1h30m"),
        ("250ms", 0.25, "250ms"),
        ("1d", 86400.0, "24h"),
        (" 10s ", 10.0, "10s"),
        ("0s", 0.0, "0s"),
    ],
)
def test_reads_what_people_write(text: str, seconds: float, canonical: str) -> None:
    assert parse_duration(text) == Duration(seconds, canonical)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30", '"30" has no unit: did you mean 30s?'),
        ("", "the duration is empty"),
        ("5 m", '"5 m" is not a duration'),
        ("soon", '"soon" is not a duration'),
        ("-5s", '"-5s" is not a duration'),
        ("1h30", '"1h30" is not a duration'),
        ("400d", '"400d" is longer than a year'),
        ("٣s", '"٣s" is not a duration'),
    ],
)
def test_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(DurationError) as caught:
        parse_duration(text)
    assert str(caught.value) == message
    assert caught.value.code == "DURATION_INVALID"


@given(st.integers(min_value=0, max_value=366 * 86_400_000))
def test_canonical_text_reads_back(milliseconds: int) -> None:
    text = format_duration(milliseconds)
    assert parse_duration(text) == Duration(milliseconds / 1000, text)


@given(st.text())
def test_any_text_is_a_duration_or_a_duration_error(text: str) -> None:
    with contextlib.suppress(DurationError):
        assert parse_duration(text).seconds >= 0
