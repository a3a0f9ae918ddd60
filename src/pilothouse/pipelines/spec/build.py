"""Builds the types of model.py from nodes, message by message, with the checks that need only the message."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pilothouse.pipelines.spec.actions import ActionRegistry
from pilothouse.pipelines.spec.approvals import check_params as check_approval
from pilothouse.pipelines.spec.approvals import is_required
from pilothouse.pipelines.spec.environment import read_environment
from pilothouse.pipelines.spec.fields import Field, snake_case
from pilothouse.pipelines.spec.messages import MAX_JOBS, MAX_STEPS, MESSAGES
from pilothouse.pipelines.spec.model import (
    Approval,
    CheckoutOptions,
    Job,
    LabelExpression,
    NotifyItem,
    Runtime,
    Spec,
    Step,
    Trigger,
)
from pilothouse.pipelines.spec.notifications import PARAMS, check_item, check_params
from pilothouse.pipelines.spec.problems import shown
from pilothouse.pipelines.spec.reader import Fields
from pilothouse.pipelines.spec.triggers import check_options, check_triggers
from pilothouse.pipelines.spec.uses import check_uses


class Builder:
    """Builds one spec by the table of messages; call ``spec``."""

    message = MESSAGES["Spec"]

    def __init__(self, actions: ActionRegistry | None) -> None:
        self._actions = actions

    def spec(self, spec: Fields) -> Spec:
        values = self._values(spec)
        if spec.lacks("jobs"):
            spec.problem(spec.mark_of("jobs"), "jobs", "the spec has no jobs", "at least one job")
        elif (count := len(values["jobs"])) > MAX_JOBS:
            spec.problem(spec.mark_of("jobs"), "jobs", f"the spec has {count} jobs", f"at most {MAX_JOBS}")
        values["runtime"] = values["runtime"] or Runtime()
        values["checkout"] = values["checkout"] or CheckoutOptions()
        check_triggers(spec, values["triggers"], values["variables"])
        return Spec(**values)

    def _message(self, fields: Fields) -> Any:
        match fields.message.name:
            case "Job":
                return self._job(fields)
            case "Step":
                return self._step(fields)
            case "LabelExpression":
                return self._label_expression(fields)
            case "Trigger":
                return self._trigger(fields)
            case "Approval":
                return self._approval(fields)
            case "NotifyItem":
                return self._notify_item(fields)
            case "ManualOptions" | "CronOptions" | "EventOptions" | "Input":
                return self._options(fields)
        return fields.message.model(**self._values(fields))

    def _values(self, fields: Fields, without: Collection[str] = ()) -> dict[str, Any]:
        """The keyword arguments of the message's type."""
        return {
            snake_case(field.name): self._value(fields, field)
            for field in fields.message.fields
            if field.name not in without
        }

    def _value(self, fields: Fields, field: Field) -> Any:
        match field.kind:
            case "text":
                return _text(fields, field)
            case "texts":
                return _texts(fields, field)
            case "text_map":
                return fields.text_map(field.name)
            case "env":
                return read_environment(fields, field.name)
            case "struct":
                return fields.struct(field.name)
            case "boolean":
                return fields.boolean(field.name)
            case "integer":
                return _integer(fields, field)
            case "duration":
                return fields.duration(field.name, zero=field.zero)
            case "condition":
                return fields.condition(field.name)
            case "choice":
                return _choice(fields, field)
            case "message":
                return fields.message_of(field.name, MESSAGES[field.of], self._message)
        return fields.messages_of(field.name, MESSAGES[field.of], self._message)

    def _job(self, job: Fields) -> Job:
        job.reading.job = job.scalar("name")
        built = Job(**self._values(job))
        self._check_steps(job, built)
        job.reading.job = ""
        return built

    def _check_steps(self, job: Fields, built: Job) -> None:
        what = f"job {shown(built.name)}" if built.name else "the job"
        if job.lacks("steps") and not is_required(built):
            job.problem(job.mark_of("steps"), "steps", f"{what} has no steps", "at least one step")
        elif (count := len(built.steps)) > MAX_STEPS:
            job.problem(job.mark_of("steps"), "steps", f"{what} has {count} steps", f"at most {MAX_STEPS}")

    def _step(self, step: Fields) -> Step:
        values = self._values(step, without=("run", "uses", "action"))
        uses, action = check_uses(step, values["args"], self._actions)
        return Step(**values, uses=uses, action=action)

    def _trigger(self, trigger: Fields) -> Trigger:
        """Its options are read as the message of its type; those of other types stay as they are."""
        known = f"{trigger.scalar('type').capitalize()}Options"
        if known not in MESSAGES:
            return Trigger(**self._values(trigger))
        values = self._values(trigger, without=("options",))
        options = trigger.message_of("options", MESSAGES[known], self._options)
        if options is None and trigger.node("options") is None:
            options = trigger.empty(MESSAGES[known], self._options)
        return Trigger(**values, options=options or {})

    def _approval(self, approval: Fields) -> Approval:
        """Its params are read as such only if it is required."""
        values = self._values(approval, without=("params",))
        if not values["required"]:
            return Approval(**values, params=approval.struct("params"))
        params = approval.message_of("params", MESSAGES["ApprovalParams"], self._options)
        return Approval(**values, params=params or {})

    def _notify_item(self, item: Fields) -> NotifyItem:
        """Its parameters are read as the message of its plugin."""
        check_item(item)
        values = self._values(item, without=("params",))
        known = PARAMS.get(item.scalar("plugin").lower())
        if known is None:  # a problem already
            return NotifyItem(**values, params=item.struct("params"))
        params = item.message_of("params", MESSAGES[known], self._params)
        if params is None and item.node("params") is None:
            params = item.empty(MESSAGES[known], self._params)
        return NotifyItem(**values, params=params or {})

    def _options(self, fields: Fields) -> dict[str, Any]:
        """The given fields of a message that is kept as a JSON object."""
        values, given = self._given(fields)
        if fields.message.name == "ApprovalParams":
            check_approval(fields, values)
        check_options(fields, values)
        return given

    def _params(self, fields: Fields) -> dict[str, Any]:
        """The same for the parameters of a notification."""
        values, given = self._given(fields)
        check_params(fields, values)
        return given

    def _given(self, fields: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of all fields, and those that are there, as JSON values."""
        values = {field.name: self._value(fields, field) for field in fields.message.fields}
        given = {name: value for name, value in values.items() if fields.node(name) is not None}
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return values, given

    def _label_expression(self, expression: Fields) -> LabelExpression:
        built = LabelExpression(**self._values(expression))
        given = expression.scalar("operator")
        problem = _values_problem(built.operator, built.values) if given else None
        if problem:
            mark = expression.mark_of("values")
            expression.problem(mark, "values", f"{built.operator} {problem[0]}", problem[1])
        return built


def _text(fields: Fields, field: Field) -> str:
    if field.required:
        text = fields.required(field.name, field.expected, rendered=field.rendered)
    else:
        text = fields.text(field.name, rendered=field.rendered)
    if text and field.pattern and not re.fullmatch(field.pattern, text):
        given = field.name if field.private else f"{field.name} {shown(text)}"
        message = f"the {given} is not allowed"
        fields.problem(fields.mark_of(field.name), field.name, message, field.expected)
    return text


def _texts(fields: Fields, field: Field) -> tuple[str, ...]:
    found: list[str] = []
    for item, path in fields.items(field.name):
        text = fields.reading.text(item, path, rendered=field.rendered)
        if text is None:
            continue
        if field.pattern and not re.fullmatch(field.pattern, text):
            message = f"{field.name} cannot hold {shown(text)}"
            fields.reading.problems.add(item.mark, path, message, field.expected)
        found.append(text)
    return tuple(found)


def _integer(fields: Fields, field: Field) -> int:
    if not field.required and fields.node(field.name) is None:
        default: int = field.default
        return default
    return fields.integer(field.name, field.least, field.most)


def _choice(fields: Fields, field: Field) -> str:
    if field.required:
        fields.required(field.name, field.expected)
    return fields.choice(field.name, field.options, field.default)


def _values_problem(operator: str, values: tuple[str, ...]) -> tuple[str, str] | None:
    """The message of a problem, and what is expected."""
    if operator in ("In", "NotIn"):
        return None if values else ("needs values", "a list with at least one value")
    if operator in ("Exists", "DoesNotExist"):
        return ("takes no values", "no values") if values else None
    if len(values) == 1 and re.fullmatch(r"-?[0-9]{1,18}", values[0]):
        return None
    return "compares with one whole number", 'a list with one number, such as ["4"]'
