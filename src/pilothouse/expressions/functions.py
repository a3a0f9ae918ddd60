"""The functions of expressions: CEL's standard functions on JSON values, and its string extensions.

Each takes the budget, then its arguments; a method's receiver comes first (``x.size()`` is ``size(x)``).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import re2

from pilothouse.expressions.values import (
    INTEGERS,
    MAX_SIZE,
    Budget,
    Fault,
    TypeName,
    a_type,
    is_number,
    to_text,
    type_name,
)
from pilothouse.wire.durations import DurationError, parse_duration

MAX_PATTERN = 256
_MAX_REPETITION = 64  # product of all counted repetitions of a pattern, whose compiled form grows with it
_MAX_PROGRAM = 256 << 10  # bytes of a compiled pattern; one within it compiles in a few milliseconds
_REPETITION = re.compile(r"\{([0-9]*),?([0-9]*)\}")


def _pattern_options() -> re2.Options:
    options = re2.Options()
    options.never_capture = True  # only whether there is a match is asked
    options.max_mem = _MAX_PROGRAM
    options.log_errors = False
    return options


_PATTERN_OPTIONS = _pattern_options()


@dataclass(frozen=True, slots=True)
class Function:
    call: Callable[..., Any]
    least: int
    most: int

    @property
    def arity(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


def _texts(function: str, *values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise Fault(f"{function}() needs a string, this is {a_type(value)}")


def _integers(function: str, *values: Any) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Fault(f"{function}() needs an integer, this is {a_type(value)}")


def _size(budget: Budget, value: Any) -> int:
    if isinstance(value, str | list | tuple | Mapping):
        return len(value)
    raise Fault(f"size() needs a string, a list or a map, this is {a_type(value)}")


def _text_test(name: str, test: Callable[[str, str], bool]) -> Function:
    def call(budget: Budget, value: Any, part: Any) -> bool:
        _texts(name, value, part)
        budget.spend(len(value) >> 8)
        return test(value, part)

    return Function(call, 2, 2)


def _matches(budget: Budget, value: Any, pattern: Any) -> bool:
    _texts("matches", value, pattern)
    if len(pattern) > MAX_PATTERN:
        raise Fault(f"the pattern of matches() has {len(pattern)} characters, the bound is {MAX_PATTERN}")
    repetition = 1
    for low, high in _REPETITION.findall(pattern):
        repetition *= max(1, int((low or "1")[:9]), int((high or "1")[:9]))
    if repetition > _MAX_REPETITION:
        raise Fault(f"the pattern of matches() repeats more than {_MAX_REPETITION} times by count")
    budget.make(len(value))
    budget.spend(500 + len(pattern) * repetition * (1 + (len(value) >> 8)))
    try:
        # RE2 (the syntax that CEL names) takes time linear in the text, unlike Python's own expressions.
        return re2.search(_utf8(pattern), _utf8(value), _PATTERN_OPTIONS) is not None
    except re2.error as error:
        # The library's message is not shown: it repeats the pattern, which may hold a secret.
        wrong = "too large" if b"too large" in error.args[0] else "not a valid regular expression"
        raise Fault(f"the pattern of matches() is {wrong}") from None


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # lone surrogates have no encoding


def _string(budget: Budget, value: Any) -> str:
    return to_text(value)


def _int(budget: Budget, value: Any) -> int:
    match value:
        case bool() | None:
            number: int | None = None
        case int():
            number = value
        case float() if abs(value) < 2**63:
            number = int(value)
        case str() if re.fullmatch(r"[+-]?[0-9]{1,19}", value):
            number = int(value)
        case datetime():
            number = int(value.timestamp())
        case _:
            number = None
    if number is None or number not in INTEGERS:
        raise Fault(f"int() cannot read this {type_name(value)} as an integer")
    return number


def _uint(budget: Budget, value: Any) -> int:
    number = _int(budget, value)
    if number < 0:
        raise Fault("uint() needs a number that is not negative")
    return number


def _double(budget: Budget, value: Any) -> float:
    if is_number(value) or (isinstance(value, str) and len(value) <= 64):
        try:
            return float(value)
        except ValueError:
            pass  # the same error as for other types, below
    raise Fault(f"double() cannot read this {type_name(value)} as a number")


def _bool(budget: Budget, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "True": True, "TRUE": True, "t": True, "1": True}
    words |= {"false": False, "False": False, "FALSE": False, "f": False, "0": False}
    if isinstance(value, str) and value in words:
        return words[value]
    raise Fault(f'bool() needs "true" or "false", this is another {type_name(value)}')


def _timestamp(budget: Budget, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    _texts("timestamp", value)
    try:
        moment = datetime.fromisoformat(value[:64])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Fault("timestamp() needs RFC 3339, such as 2026-01-31T09:30:00Z") from None


def _duration(budget: Budget, value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    _texts("duration", value)
    try:
        span = timedelta(seconds=parse_duration(value.removeprefix("-")).seconds)
    except DurationError:
        raise Fault("duration() needs a duration such as 30s, 5m or 1h30m") from None
    return -span if value.startswith("-") else span


def _moment(name: str, read: Callable[[datetime], int]) -> Function:
    """A getter of timestamps, in UTC."""

    def call(budget: Budget, value: Any) -> int:
        if not isinstance(value, datetime):
            raise Fault(f"{name}() needs a timestamp, this is {a_type(value)}")
        return read(value)

    return Function(call, 1, 1)


def _transform(name: str, change: Callable[[str], str]) -> Function:
    def call(budget: Budget, value: Any) -> str:
        _texts(name, value)
        budget.make(len(value))
        return change(value)

    return Function(call, 1, 1)


def _split(budget: Budget, value: Any, separator: Any) -> list[str]:
    _texts("split", value, separator)
    budget.make(len(value))
    pieces = value.split(separator) if separator else list(value)
    budget.spend(len(pieces) >> 3)
    return pieces


def _join(budget: Budget, value: Any, separator: Any = "") -> str:
    _texts("join", separator)
    if not isinstance(value, list | tuple):
        raise Fault(f"join() needs a list, this is {a_type(value)}")
    budget.spend(len(value) >> 3)
    _texts("join", *value)
    budget.make(sum(map(len, value)) + len(separator) * max(0, len(value) - 1))
    return str(separator).join(value)


def _replace(budget: Budget, value: Any, old: Any, new: Any) -> str:
    _texts("replace", value, old, new)
    budget.make(len(value))
    budget.make(len(value) + value.count(old) * max(0, len(new) - len(old)))
    return str(value).replace(old, new)


def _substring(budget: Budget, value: Any, start: Any, end: Any = MAX_SIZE) -> str:
    _texts("substring", value)
    _integers("substring", start, end)
    if start < 0 or end < start or start > len(value):
        raise Fault("substring() has bounds outside of the text")
    return str(value)[start : min(end, start + MAX_SIZE)]


def _index_of(budget: Budget, value: Any, part: Any) -> int:
    _texts("indexOf", value, part)
    budget.spend(len(value) >> 8)
    return str(value).find(part)


_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_TO_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)

FUNCTIONS: Mapping[str, Function] = {
    "size": Function(_size, 1, 1),
    "contains": _text_test("contains", lambda value, part: part in value),
    "startsWith": _text_test("startsWith", str.startswith),
    "endsWith": _text_test("endsWith", str.endswith),
    "matches": Function(_matches, 2, 2),
    "string": Function(_string, 1, 1),
    "int": Function(_int, 1, 1),
    "uint": Function(_uint, 1, 1),
    "double": Function(_double, 1, 1),
    "bool": Function(_bool, 1, 1),
    "type": Function(lambda budget, value: TypeName(type_name(value)), 1, 1),
    "dyn": Function(lambda budget, value: value, 1, 1),
    "timestamp": Function(_timestamp, 1, 1),
    "duration": Function(_duration, 1, 1),
    "getFullYear": _moment("getFullYear", lambda moment: moment.year),
    "getMonth": _moment("getMonth", lambda moment: moment.month - 1),
    "getDate": _moment("getDate", lambda moment: moment.day),
    "getDayOfMonth": _moment("getDayOfMonth", lambda moment: moment.day - 1),
    "getDayOfWeek": _moment("getDayOfWeek", lambda moment: moment.isoweekday() % 7),
    "getDayOfYear": _moment("getDayOfYear", lambda moment: moment.timetuple().tm_yday - 1),
    "getHours": _moment("getHours", lambda moment: moment.hour),
    "getMinutes": _moment("getMinutes", lambda moment: moment.minute),
    "getSeconds": _moment("getSeconds", lambda moment: moment.second),
    "getMilliseconds": _moment("getMilliseconds", lambda moment: moment.microsecond // 1000),
    "lowerAscii": _transform("lowerAscii", lambda text: text.translate(_TO_LOWER)),
    "upperAscii": _transform("upperAscii", lambda text: text.translate(_TO_UPPER)),
    "trim": _transform("trim", str.strip),
    "split": Function(_split, 2, 2),
    "join": Function(_join, 1, 2),
    "replace": Function(_replace, 3, 3),
    "substring": Function(_substring, 2, 3),
    "indexOf": Function(_index_of, 2, 2),
}
