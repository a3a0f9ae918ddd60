"""The times at which a window gate opens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.gates.model import GateInvalid
from pilothouse.engine.gates.window import DAYS, read_window


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("args", "now", "opens"),
    [
        ({}, "2027-01-15T08:00Z", "2027-01-15T08:00Z"),
        ({"days": ["fri"]}, "2027-01-15T00:00Z", "2027-01-15T00:00Z"),
        ({"days": ["fri"]}, "2027-01-16T00:00Z", "2027-01-22T00:00Z"),
        ({"from": "22:00", "to": "06:00"}, "2027-01-15T05:59Z", "2027-01-15T05:59Z"),
        ({"from": "22:00", "to": "06:00"}, "2027-01-15T06:00Z", "2027-01-15T22:00Z"),
        ({"days": "thu", "from": "22:00", "to": "06:00"}, "2027-01-15T05:00Z", "2027-01-15T05:00Z"),
        ({"days": "fri", "from": "22:00", "to": "06:00"}, "2027-01-15T05:00Z", "2027-01-15T22:00Z"),
        ({"from": "09:00", "to": "17:00", "timezone": "Europe/Berlin"}, "2027-07-01T06:00Z", "2027-07-01T07:00Z"),
        # The clocks of Berlin jump from 02:00 to 03:00 on 2027-03-28.
        ({"from": "02:30", "to": "04:00", "timezone": "Europe/Berlin"}, "2027-03-28T00:00Z", "2027-03-28T01:30Z"),
    ],
)  # fmt: skip
def test_when_it_opens(args: dict[str, Any], now: str, opens: str) -> None:
    assert read_window(args).opens(ms(now)) == ms(opens)


@pytest.mark.parametrize(
    "args",
    [
        {"days": ["monday"]},
        {"days": [*DAYS, "mon"]},
        {"from": "24:00"},
        {"from": "9:00"},
        {"to": 900},
        {"timezone": "Mars/Olympus"},
        {"timezone": "../../etc/passwd"},
        {"timezone": "/etc/localtime"},
        {"timezone": 1},
    ],
)
def test_arguments_that_make_no_sense(args: dict[str, Any]) -> None:
    with pytest.raises(GateInvalid):
        read_window(args)


TIMES = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])


@given(
    days=st.sets(st.sampled_from(DAYS), min_size=1),
    start=TIMES,
    end=TIMES,
    zone=ZONES,
    now=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)),
)
def test_it_is_open_when_it_says_so_and_within_eight_days(
    days: set[str], start: str, end: str, zone: str, now: datetime
) -> None:
    window = read_window({"days": sorted(days), "from": start, "to": end, "timezone": zone})
    at = int(now.replace(tzinfo=UTC).timestamp() * 1000)
    opens = window.opens(at)
    assert at <= opens <= at + 8 * 86_400_000 + 2 * 3_600_000
    assert window.opens(opens) == opens, "it is open then"
    if opens > at:
        local = datetime.fromtimestamp(opens / 1000, ZoneInfo(zone))
        assert DAYS[local.weekday()] in days or DAYS[(local - timedelta(hours=2)).weekday()] in days
