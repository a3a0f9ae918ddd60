"""Values of step outputs: JSON that is stored exactly, or refused with the reason.

Agent and server use the same rules. An event `arcentra.step.output` has the value as JSON text, `{"name",
"json"}`, since a protobuf Struct would turn every number into a double.
"""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import accumulate
from typing import Any

import orjson

MAX_BYTES = 1 << 20
"""Bytes of all outputs of an attempt, as one JSON object."""
MAX_COUNT = 1000
"""Number of outputs of an attempt."""
MAX_DEPTH = 64
"""Nesting of lists and objects; the limit of expressions."""
MAX_NUMBER = 64
"""Characters of one number."""
INTEGERS = range(-(2**63), 2**64)

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*")
_LONG_NUMBER = re.compile(rf"[0-9.eE+-]{{{MAX_NUMBER + 1}}}")
_NO_NUMBER = re.compile(r"\b(?:NaN|Infinity)\b")
_PLAIN_DIGITS = 15  # the maximum number of significant decimal digits of a double
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
_NO_BRACKET = re.compile(r"[^][{}]+")


class OutputRefused(ValueError):
    """The value cannot be an output. The message does not contain it, since it may be a secret."""


def read_json(text: str) -> Any:
    """Parse a JSON text. Raises :class:`OutputRefused`."""
    if len(text) > MAX_BYTES:
        raise OutputRefused(f"it has more than {MAX_BYTES} bytes")
    bare = _STRING.sub('""', text)
    if max(accumulate(map(_STEP.__getitem__, _NO_BRACKET.sub("", bare))), default=0) > MAX_DEPTH:
        raise OutputRefused(f"it is nested more than {MAX_DEPTH} deep")
    if _NO_NUMBER.search(bare):
        raise OutputRefused("JSON has no NaN and no Infinity")
    if _LONG_NUMBER.search(bare):
        raise OutputRefused(f"it has a number of more than {MAX_NUMBER} characters")
    for number in _NUMBER.findall(bare):
        if len(number) > _PLAIN_DIGITS or "e" in number or "E" in number:
            _check_number(number)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" in str(error):
            raise OutputRefused("it has an unpaired surrogate, which is not a character") from None
        raise OutputRefused("the value is not valid JSON") from None
    except UnicodeEncodeError:
        raise OutputRefused("it has an unpaired surrogate, which is not a character") from None
    if ":" in bare and bare.count(":") != _keys(value):
        raise OutputRefused("an object has the same key twice")
    return value


def write_json(value: Any) -> str:
    """The JSON text of a value from :func:`read_json`."""
    return orjson.dumps(value).decode()


def _check_number(text: str) -> None:
    whole = not any(mark in text for mark in ".eE")
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        return  # not a number, so the text is not JSON
    if whole:
        if number not in INTEGERS:
            raise OutputRefused("it has a whole number of more than 64 bits")
        return
    if number == 0:
        exact = not re.split("[eE]", text)[0].strip("-0.")
    else:
        exact = abs(number) != float("inf") and Decimal(text) == Decimal(repr(number))
    if not exact:
        raise OutputRefused("it has a number that a double cannot hold exactly; write it as a text")


def _keys(value: Any) -> int:
    return _STRING.sub("", write_json(value)).count(":")
