"""The values of expressions: type names, comparison, conversion to text and JSON.

Values are None, bool, int (64 bits), float, str, list, dict, and two that JSON lacks: datetime and timedelta.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pilothouse.wire.durations import format_duration
from pilothouse.wire.times import utc_text

MAX_STEPS = 20_000  # one step is about half a microsecond
MAX_SIZE = 65_536  # characters and elements of one value that an expression creates
MAX_NESTING = 64
INTEGERS = range(-(2**63), 2**63)


class Fault(Exception):
    """Evaluation failed; the evaluator adds the place. Never holds a value of the context."""


class BudgetSpent(Exception):
    """Too many steps, or a value that is too large. Unlike a Fault, ``||`` and ``&&`` do not ignore it."""


class Budget:
    """The remaining steps of an evaluation; several may share it."""

    __slots__ = ("steps",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.steps = steps

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise BudgetSpent("it takes too long to evaluate: too many steps")

    def make(self, size: int) -> None:
        """Charge for a value of ``size`` characters or elements before it is created."""
        if size > MAX_SIZE:
            raise BudgetSpent(f"it makes a value of {size} characters or elements, the bound is {MAX_SIZE}")
        self.spend(size >> 6)


@dataclass(frozen=True, slots=True)
class TypeName:
    """What ``type(x)`` gives, and what ``int``, ``string``, ... name in an expression."""

    name: str


TYPE_NAMES = frozenset(
    {"null_type", "bool", "int", "uint", "double", "string", "list", "map", "timestamp", "duration", "type"}
)


def type_name(value: Any) -> str:
    """CEL's name for the type of ``value``."""
    match value:
        case None:
            return "null_type"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "double"
        case str():
            return "string"
        case Mapping():
            return "map"
        case list() | tuple():
            return "list"
        case datetime():
            return "timestamp"
        case timedelta():
            return "duration"
    return "type"


def a_type(value: Any) -> str:
    """``a string``, ``an int``: for messages."""
    name = type_name(value)
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(left: Any, right: Any, budget: Budget, depth: int = 0) -> bool:
    """CEL's equality: numbers by value whatever their type, else different types are unequal."""
    budget.spend(1)
    if depth > MAX_NESTING:
        raise Fault(f"cannot compare values nested more than {MAX_NESTING} deep")
    if is_number(left) and is_number(right):
        return bool(left == right)
    kind = type_name(left)
    if kind != type_name(right):
        return False
    if kind == "list":
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(equal(a, b, budget, depth + 1) for a, b in pairs)
    if kind == "map":
        return len(left) == len(right) and all(
            key in right and equal(value, right[key], budget, depth + 1) for key, value in left.items()
        )
    if kind == "string":
        budget.spend(min(len(left), len(right)) >> 10)
    return bool(left == right)


def compare(operator: str, left: Any, right: Any) -> bool:
    """``<``, ``<=``, ``>``, ``>=`` of two numbers or two values of one ordered type."""
    kinds = type_name(left), type_name(right)
    ordered = kinds[0] == kinds[1] and kinds[0] in ("bool", "string", "timestamp", "duration")
    if not ordered and not (is_number(left) and is_number(right)):
        raise Fault(f"cannot compare {kinds[0]} {operator} {kinds[1]}")
    match operator:
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
    return bool(left >= right)


def plain(value: Any, budget: Budget) -> Any:
    """``value`` as JSON holds it, copied; its total size within MAX_SIZE."""
    return _plain(value, budget, [0], 0)


def _plain(value: Any, budget: Budget, total: list[int], depth: int) -> Any:
    if depth > MAX_NESTING:
        raise Fault(f"the result is nested more than {MAX_NESTING} deep")
    budget.spend(1)
    total[0] += 1 + (len(value) if isinstance(value, str) else 0)
    if total[0] > MAX_SIZE + 1:
        raise BudgetSpent(f"its result has more than {MAX_SIZE} characters and elements")
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            keys = (_plain(_key(key), budget, total, depth) for key in value)
            return {
                key: _plain(item, budget, total, depth + 1)
                for key, item in zip(keys, value.values(), strict=True)
            }
        case list() | tuple():
            return [_plain(item, budget, total, depth + 1) for item in value]
        case float():
            raise Fault("the result is not a finite number")
    return to_text(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def to_text(value: Any) -> str:
    """``string(value)``; also how a scalar is put into a text around it."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case int() | float():
            return str(value)
        case datetime():
            return utc_text(value.astimezone(UTC))
        case timedelta():
            milliseconds = value // timedelta(milliseconds=1)
            return "-" * (milliseconds < 0) + format_duration(abs(milliseconds))
        case TypeName():
            return value.name
    raise Fault(f"cannot turn {a_type(value)} into text")


def insert_text(value: Any) -> str:
    """The text of a value within a template: empty for null, JSON for lists and maps."""
    if value is None:
        return ""
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return to_text(value)
