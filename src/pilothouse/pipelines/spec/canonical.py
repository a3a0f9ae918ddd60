"""A spec as JSON, in the form of the gRPC messages: camelCase, without fields that were not given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pilothouse.pipelines.spec.model import CheckoutOptions, Job, Spec


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """The canonical JSON value; ``spec_from_json`` gives an equal spec back."""
    return _message(spec)


def triggers_to_json(spec: Spec) -> list[dict[str, Any]]:
    """The triggers alone, as in the canonical value."""
    return [_message(trigger) for trigger in spec.triggers]


def _message(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in fields(value):
        item = getattr(value, part.name)
        if part.name in ("on_lost", "checkout"):
            continue
        if is_dataclass(item):
            found[camel_case(part.name)] = _message(item)
        elif item not in ("", 0, False, None, (), {}):
            found[camel_case(part.name)] = _copy(item)
    if isinstance(value, Job):
        _add_on_lost(value, found)
    if isinstance(value, Spec) and (checkout := _checkout(value.checkout)):
        found["checkout"] = checkout
    return {key: item for key, item in found.items() if (key, item) != ("runtime", {})}


def _checkout(options: CheckoutOptions) -> dict[str, Any]:
    # Unlike elsewhere 0 is not the default: a depth of 0 is the whole history.
    usual = CheckoutOptions()
    given = {part.name: getattr(options, part.name) for part in fields(options)}
    return {name: value for name, value in given.items() if value != getattr(usual, name)}


def _add_on_lost(job: Job, found: dict[str, Any]) -> None:
    if job.on_lost != "fail":
        found["onLost"] = job.on_lost
    for step, message in zip(job.steps, found.get("steps", ()), strict=True):
        if step.on_lost:
            message["onLost"] = step.on_lost


def _copy(value: Any) -> Any:
    if is_dataclass(value):
        return _message(value)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


def camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
