"""Triggers as stored, and which events they are for; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.pipelines.spec.schedule import Due, Schedule
from pilothouse.pipelines.spec.triggers import DEADLINE
from pilothouse.wire.durations import parse_duration

CRON, EVENT = "cron", "event"
KINDS = (CRON, EVENT)
"""Those that the server watches; a manual trigger only declares inputs."""

MAX_FIRES = 100
"""So many fires of a trigger are kept, and an event trigger fires at most so often within ``LIMIT_WINDOW``."""

LIMIT_WINDOW = 10 * 60 * 1000

MAX_CHAIN = 8
"""So deep runs may start each other by event triggers."""


@dataclass(slots=True)
class Trigger:
    """A cron or event trigger of a saved spec. Times in ms, 0: none.

    ``options``: canonical, as in the spec. ``by``, ``by_id``: the user whose rights its runs have, who saved or
    enabled it. ``next_at``: the next tick. ``seen``: events before this offset of the journal are done with.
    ``fired``: how often it has fired, whether a run started or not; ``reason``: why the last one started none.
    """

    id: str
    pipeline_id: str
    project: str
    position: int
    name: str
    type: str
    options: Mapping[str, Any]
    enabled: bool
    by: str
    by_id: str
    created_at: int
    next_at: int = 0
    seen: int = 0
    fired: int = 0
    last_at: int = 0
    last_run: str = ""
    reason: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """Of its runs."""
        return dict(self.options.get("variables", {}))

    @property
    def schedule(self) -> Schedule:
        """Of a cron trigger."""
        return Schedule(" ".join(self.options["schedule"].split()), self.options.get("timezone") or "UTC")

    @property
    def deadline(self) -> int:
        """How late a run of a cron trigger may start, in ms."""
        return round(parse_duration(self.options.get("startingDeadline") or DEADLINE).seconds * 1000)

    def due(self, now: int) -> Due:
        """What the schedule demands at this time; takes some milliseconds after an outage."""
        return self.schedule.due(self.next_at, now, self.deadline)


@dataclass(frozen=True, slots=True)
class Fire:
    """One time that a trigger has fired. ``due_at`` (ms): the tick; ``cause``: the run whose event it was.

    ``run_id``: the run that was started; empty: none, for this ``reason``.
    """

    trigger_id: str
    number: int
    at: int
    due_at: int = 0
    cause: str = ""
    run_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An entry of the journal that event triggers are for."""

    offset: int
    type: str
    run_id: str
    project: str
    pipeline_id: str
    pipeline: str
    status: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The triggers of a canonical spec in the form in which they are compared with the stored ones."""

    type: str
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def matches(trigger: Trigger, event: RunEvent) -> bool:
    """Whether the trigger is for this event. Without a ``pipeline`` it is not for runs of its own."""
    options = trigger.options
    if event.project != trigger.project or event.type not in options["events"] or event.offset < trigger.seen:
        return False
    if named := options.get("pipeline"):
        if named not in (event.pipeline_id, event.pipeline):
            return False
    elif event.pipeline_id == trigger.pipeline_id:
        return False
    statuses = options.get("statuses")
    return not statuses or event.type != "run.completed" or event.status in statuses


def paired(wanted: list[Wanted], stored: list[Trigger]) -> list[Trigger | None]:
    """For each trigger of a new spec the stored one that it continues: of its name, else with the same options."""
    left = list(stored)
    found: list[Trigger | None] = []
    for one in wanted:
        same = next((each for each in left if _continues(one, each)), None)
        if same is not None:
            left.remove(same)
        found.append(same)
    return found


def _continues(one: Wanted, stored: Trigger) -> bool:
    if one.type != stored.type or one.name != stored.name:
        return False
    return bool(one.name) or dict(one.options) == dict(stored.options)
