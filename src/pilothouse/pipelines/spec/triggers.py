"""Checks of triggers and their options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pilothouse.pipelines.spec.inputs import Input, check_given, input_of
from pilothouse.pipelines.spec.model import Trigger
from pilothouse.pipelines.spec.problems import did_you_mean, shown
from pilothouse.pipelines.spec.reader import Fields
from pilothouse.pipelines.spec.schedule import ScheduleInvalid, read_schedule
from pilothouse.pipelines.spec.trigger_fields import EVENTS, FINAL, MAX_CHOICES, MAX_INPUTS, MAX_TRIGGERS
from pilothouse.wire.durations import parse_duration

MAX_DEADLINE = 24 * 3600
DEADLINE = "1h"
"""``startingDeadline`` where it is left out."""


def check_options(fields: Fields, values: Mapping[str, Any]) -> None:
    """Check the options of one trigger, or one input, as far as they are no matter of the other triggers."""
    match fields.message.name:
        case "CronOptions":
            _check_cron(fields, values)
        case "EventOptions":
            _check_event(fields, values)
        case "ManualOptions":
            _check_manual(fields, values)
        case "Input":
            _check_input(fields, values)


def _check_cron(cron: Fields, values: Mapping[str, Any]) -> None:
    if values["schedule"]:
        try:
            read_schedule(values["schedule"], values["timezone"])
        except ScheduleInvalid as error:
            name = "timezone" if "time zone" in str(error) else "schedule"
            cron.problem(cron.mark_of(name), name, str(error), "as in 0 3 * * MON-FRI and Europe/Berlin")
    deadline = values["startingDeadline"]
    if deadline and parse_duration(deadline).seconds > MAX_DEADLINE:
        mark = cron.mark_of("startingDeadline")
        cron.problem(
            mark, "startingDeadline", f"startingDeadline: {deadline} is longer than 24h", "0s to 24h"
        )


def _check_event(event: Fields, values: Mapping[str, Any]) -> None:
    if not values["events"]:
        event.problem(event.mark_of("events"), "events", "the event trigger has no events", _one_of(EVENTS))
    for name, known in (("events", EVENTS), ("statuses", FINAL)):
        for word in values[name]:
            if word not in known:
                said = f"{name} cannot be {shown(word)}{did_you_mean(word, known)}"
                event.problem(event.mark_of(name), name, said, _one_of(known))


def _check_manual(manual: Fields, values: Mapping[str, Any]) -> None:
    inputs, mark = values["inputs"], manual.mark_of("inputs")
    if len(inputs) > MAX_INPUTS:
        said = f"the manual trigger has {len(inputs)} inputs"
        manual.problem(mark, "inputs", said, f"at most {MAX_INPUTS}")
    for name in _repeated([one["name"] for one in inputs if one.get("name")]):
        manual.problem(mark, "inputs", f"two inputs are named {shown(name)}", "a name of its own")


def _check_input(fields: Fields, values: Mapping[str, Any]) -> None:
    given = Input(values["name"], values["type"], values["default"], values["choices"])
    what = f"input {shown(given.name)}"
    if given.type == "choice" and not 1 <= len(given.choices) <= MAX_CHOICES:
        mark = fields.mark_of("choices")
        fields.problem(mark, "choices", f"{what} has {len(given.choices)} choices", f"1 to {MAX_CHOICES}")
    elif given.type != "choice" and given.choices:
        said = f"{what} has choices, but its type is {given.type}"
        fields.problem(fields.mark_of("choices"), "choices", said, "type: choice")
    elif fields.node("default") is not None and (refused := given.refusal(values["default"])):
        fields.problem(fields.mark_of("default"), "default", refused)


def check_triggers(spec: Fields, triggers: tuple[Trigger, ...], variables: Collection[str]) -> None:
    """What needs all triggers: their number, names of their own, and variables that fit the inputs."""
    mark = spec.mark_of("triggers")
    if len(triggers) > MAX_TRIGGERS:
        said = f"the spec has {len(triggers)} triggers"
        spec.problem(mark, "triggers", said, f"at most {MAX_TRIGGERS}")
    for name in _repeated([one.name for one in triggers if one.name]):
        spec.problem(mark, "triggers", f"two triggers are named {shown(name)}", "a name of its own")
    manual = [one for one in triggers if one.type == "manual"]
    if len(manual) > 1:
        spec.problem(mark, "triggers", "two triggers are manual", "one, with all inputs")
    if not manual or "inputs" not in manual[0].options:
        return
    inputs = [input_of(one) for one in manual[0].options["inputs"]]
    for one in inputs:
        if one.name in variables:
            said = f"input {shown(one.name)} is in variables, too"
            spec.problem(mark, "triggers", said, "one of them: an input has a default of its own")
    for index, trigger in enumerate(triggers):
        if trigger.type in ("cron", "event"):
            for problem in check_given(inputs, trigger.options.get("variables", {})):
                path = f"triggers[{index}].options.{problem.path}"
                spec.problem(mark, path, f"trigger {index + 1}: {problem.message}", problem.expected)


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _one_of(words: Collection[str]) -> str:
    return "one of " + ", ".join(words)
