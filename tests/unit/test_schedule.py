"""Cron schedules over clock changes, and what is due after an outage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.pipelines.spec.schedule import Due, Schedule, ScheduleInvalid, read_schedule

HOUR = 3_600_000
DAY = 24 * HOUR
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/St_Johns",
]


def at(text: str, zone: str = "UTC") -> int:
    """A local time, in ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def local(ms: int, zone: str) -> datetime:
    return datetime.fromtimestamp(ms / 1000, ZoneInfo(zone))


moments = st.integers(at("2024-01-01"), at("2030-01-01")).map(lambda ms: ms // 1000 * 1000)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(ZONES), st.integers(0, 59), st.integers(0, 23), moments)
def test_a_time_of_the_day_comes_once_a_day_whatever_the_clock_does(
    zone: str, minute: int, hour: int, now: int
) -> None:
    ticks = list(islice(Schedule(f"{minute} {hour} * * *", zone).after(now), 400))
    assert ticks == sorted(set(ticks))
    assert ticks[0] > now
    days = [local(tick, zone).date() for tick in ticks]
    assert days == [days[0] + timedelta(days=at) for at in range(len(days))]
    for tick in ticks:
        shown = local(tick, zone)
        wanted = shown.replace(hour=hour, minute=minute, second=0, fold=0)
        exists = wanted.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wanted.replace(
            tzinfo=None
        )
        if exists:
            assert tick == int(wanted.timestamp()) * 1000, "the first of two equal times"


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(ZONES), st.sampled_from([1, 5, 15, 30]), moments)
def test_ticks_of_every_few_minutes_follow_the_time_that_passes(zone: str, minutes: int, now: int) -> None:
    ticks = list(islice(Schedule(f"*/{minutes} * * * *", zone).after(now), 200))
    assert {b - a for a, b in pairwise(ticks)} == {minutes * 60_000}


def test_the_nights_of_the_clock_change() -> None:
    nightly = Schedule("30 2 * * *", "Europe/Berlin")
    spring = [local(tick, "UTC").strftime("%d %H:%M") for tick in islice(nightly.after(at("2026-03-28")), 3)]
    assert spring == ["28 01:30", "29 01:00", "30 00:30"], "02:30 does not exist: right after the change"
    autumn = [local(tick, "UTC").strftime("%d %H:%M") for tick in islice(nightly.after(at("2026-10-24")), 3)]
    assert autumn == ["24 00:30", "25 00:30", "26 01:30"], "02:30 comes twice: the first counts"


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["*/5 * * * *", "0 * * * *", "30 2 * * *", "0 9 * * MON", "0 0 29 2 *"]),
    st.sampled_from(ZONES),
    moments,
    st.integers(0, 3 * DAY),
    st.sampled_from([0, 60_000, HOUR, DAY]),
)
def test_what_is_due_is_the_latest_tick_within_the_deadline(
    text: str, zone: str, begin: int, away: int, deadline: int
) -> None:
    schedule = Schedule(text, zone)
    expected = schedule.next(begin)
    now = expected + away
    every = [expected, *takewhile(lambda tick: tick <= now, schedule.after(expected))]
    startable = [tick for tick in every if tick >= now - deadline]
    due = schedule.due(expected, now, deadline)
    assert due.tick == (startable[-1] if startable else 0)
    assert due.next == schedule.next(now)
    missed = [tick for tick in every if tick != due.tick]
    assert due.missed == (missed[0] if missed else 0)


def test_on_time_nothing_is_missed() -> None:
    schedule = read_schedule("0 3 * * *")
    tick = at("2026-11-26T03:00")
    assert schedule.due(tick, tick + 900, HOUR) == Due(tick, 0, tick + DAY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "0 0 30 2 *",
        "0 0 31 4 *",
        "a b c d e",
        "*/0 * * * *",
        "0 0 * * 9",
    ],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ScheduleInvalid, match="schedule"):
        read_schedule(text)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "Europe", "/usr", "a" * 100, "UTC\0"])
def test_what_is_no_zone(zone: str) -> None:
    with pytest.raises(ScheduleInvalid, match="no time zone"):
        read_schedule("0 3 * * *", zone)
