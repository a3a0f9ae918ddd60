"""Cron schedules in time zones; pure, except that the zones come from the system or from tzdata.

As in Debian's cron: a schedule that names hours and minutes (``30 2 * * *``) runs once on each day. A time that a
clock change skips comes at once after the change; one that comes twice counts the first time. Where hours or minutes
begin with ``*``, ticks follow the time that really passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pilothouse.engine.problems import shown

_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_MAX_TEXT = 200


class ScheduleInvalid(ValueError):
    """A text is no schedule, or there is no such zone; the message is for people."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule demands at some time, all in ms; 0: none.

    ``tick``: the latest one that has passed and may still start; ``missed``: the first of those that are not started
    any more; ``next``: the next one, 0 if there is none within 50 years.
    """

    tick: int
    missed: int
    next: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Five fields of cron, in a time zone. Check it with :func:`read_schedule`."""

    text: str
    zone: str = "UTC"

    def after(self, now: int) -> Iterator[int]:
        """The ticks after a time (ms), in order."""
        # cronsim compares tzinfo with UTC by identity.
        zone = UTC if self.zone == "UTC" else ZoneInfo(self.zone)
        begin = datetime.fromtimestamp(now // 1000, zone)
        last = 0
        for tick in CronSim(self.text, begin):
            at = int(tick.timestamp()) * 1000
            if at > max(now, last):  # a clock change can map two local times to one
                last = at
                yield at

    def next(self, now: int) -> int:
        """The first tick after a time (ms); 0 if there is none within 50 years."""
        return next(self.after(now), 0)

    def due(self, expected: int, now: int, deadline: int) -> Due:
        """``expected``: the next tick as worked out before; ``deadline``: how late one may start (ms)."""
        begin = max(expected, now - deadline)
        latest = following = 0
        for tick in self.after(begin - 1000):
            if tick > now:
                following = tick
                break
            latest = tick if tick >= begin else latest
        return Due(latest, expected if expected < (latest or now) else 0, following)


def read_schedule(text: str, zone: str = "UTC") -> Schedule:
    """A checked schedule, which has a tick. Raises :class:`ScheduleInvalid`."""
    found = Schedule(" ".join(text.split()), zone or "UTC")
    try:
        if not _ZONE.fullmatch(found.zone):
            raise ValueError
        ZoneInfo(found.zone)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise _no_zone(zone) from None
    except KeyError:
        raise _no_zone(zone) from None
    if len(found.text) > _MAX_TEXT or len(found.text.split()) != 5:
        raise ScheduleInvalid(f"the schedule {shown(text)} has not five fields")
    try:
        if found.next(0):
            return found
    except (CronSimError, ValueError, OverflowError, AssertionError) as error:
        raise ScheduleInvalid(f"the schedule {shown(text)} is not valid: {error or 'a field'}") from None
    raise ScheduleInvalid(f"the schedule {shown(text)} has no time at all")


def _no_zone(zone: str) -> ScheduleInvalid:
    return ScheduleInvalid(f"there is no time zone {shown(zone)}")
