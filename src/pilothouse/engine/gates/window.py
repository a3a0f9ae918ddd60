"""``window``: a gate that succeeds at certain times of the week."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pilothouse.engine.gates.model import Gate, GateInvalid, Outcome
from pilothouse.engine.model import Run, Status
from pilothouse.storage import Tx

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")


@dataclass(frozen=True, slots=True)
class Window:
    """A weekly time window: on these days (0: Monday) from ``start`` to ``end``, in the time zone ``zone``.

    If ``end`` is not after ``start``, it is on the next day.
    """

    days: frozenset[int]
    start: time
    end: time
    zone: ZoneInfo

    def opens(self, now: int) -> int:
        """The next time (ms) at which it is open: ``now`` if it is open."""
        local = datetime.fromtimestamp(now / 1000, self.zone)
        for ahead in range(-1, 9):
            day = (local + timedelta(days=ahead)).date()
            if day.weekday() not in self.days:
                continue
            first = self._instant(datetime.combine(day, self.start))
            over = 1 if self.end <= self.start else 0
            last = self._instant(datetime.combine(day + timedelta(days=over), self.end))
            if first <= now < last:
                return now
            if first > now:
                return first
        raise AssertionError("a week has each of its days")

    def _instant(self, local: datetime) -> int:
        return int(local.replace(tzinfo=self.zone).astimezone(UTC).timestamp() * 1000)


def read_window(args: Mapping[str, Any]) -> Window:
    """Arguments: ``days`` (mon to sun; all), ``from`` and ``to`` (HH:MM; the whole day), ``timezone`` (UTC).

    Raises :class:`GateInvalid`.
    """
    return Window(
        _days(args.get("days")), _time(args, "from"), _time(args, "to"), _zone(args.get("timezone"))
    )


def _days(given: Any) -> frozenset[int]:
    words = given or DAYS
    words = [words] if isinstance(words, str) else words
    if (
        not isinstance(words, list | tuple)
        or len(words) > len(DAYS)
        or not all(word in DAYS for word in words)
    ):
        raise GateInvalid(f"days are a list of {', '.join(DAYS)}")
    return frozenset(map(DAYS.index, words))


def _time(args: Mapping[str, Any], key: str) -> time:
    given = args.get(key, "00:00")
    found = _TIME.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise GateInvalid(f"{key} is a time such as 22:00")
    return time(int(found[1]), int(found[2]))


def _zone(given: Any) -> ZoneInfo:
    name = given or "UTC"
    try:
        if not isinstance(name, str) or not _ZONE.fullmatch(name):
            raise ValueError
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise GateInvalid("timezone is a name of the IANA database, such as Europe/Berlin") from None


class TimeWindow:
    """Succeeds when the window is open."""

    def opened(self, tx: Tx, run: Run, gate: Gate, args: Mapping[str, Any]) -> Outcome | None:
        """Set the deadline to the next time at which the window is open."""
        gate.deadline = read_window(args).opens(tx.now)
        if gate.deadline <= tx.now:
            return Outcome(Status.SUCCEEDED)
        gate.message = f"opens {datetime.fromtimestamp(gate.deadline / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        return None

    def due(self, tx: Tx, run: Run, gate: Gate) -> Outcome:
        """The window is open now."""
        return Outcome(Status.SUCCEEDED)

    def closed(self, tx: Tx, run: Run, gate: Gate) -> None:
        """Nothing to clean up."""
