"""Outputs arrive exactly as they were written, or are refused with the reason."""

from __future__ import annotations

import contextlib
import json
import math
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.wire.outputs import MAX_BYTES, MAX_DEPTH, OutputRefused, read_json, write_json

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout: `1 == 1.0 == True` otherwise."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(value=values, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_any_value_arrives(value: Any, ascii_only: bool, indent: int | None) -> None:
    read = read_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
    assert same(read, value)
    assert same(json.loads(write_json(read)), value), "and goes on"


@given(
    text=st.from_regex(r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?\Z").map(str.strip),
    before=st.sampled_from(["", "[", '{"1e999": ']),
)
def test_a_number_arrives_exactly_or_not_at_all(text: str, before: str) -> None:
    after = {"": "", "[": "]", '{"1e999": ': "}"}[before]
    try:
        value = read_json(before + text + after)
    except OutputRefused:
        if not any(mark in text for mark in ".eE"):
            assert not -(2**63) <= int(text) < 2**64
        else:
            assert math.isinf(float(text)) or Decimal(text) != Decimal(repr(float(text)))
        return
    while isinstance(value, list | dict):
        (value,) = value if isinstance(value, list) else value.values()
    assert Decimal(text) == (Decimal(value) if isinstance(value, int) else Decimal(repr(value)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("18446744073709551616", "whole number of more than 64 bits"),
        ("-9223372036854775809", "whole number of more than 64 bits"),
        ("[0.1234567890123456789]", "a double cannot hold exactly"),
        ("1e400", "a double cannot hold exactly"),
        ("1e-400", "a double cannot hold exactly"),
        ("9" * 65, "number of more than 64 characters"),
        ("1" + "0" * 100_000, "number of more than 64 characters"),
        ("NaN", "no NaN"),
        ('{"a": -Infinity}', "no NaN and no Infinity"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ("[" * 200_000, "nested more than 64 deep"),
        ('"\\ud800"', "unpaired surrogate"),
        ('{"\\udc00": 1}', "unpaired surrogate"),
        ('"\ud800"', "unpaired surrogate"),
        ('{"a": 1, "a": 1}', "same key twice"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "same key twice"),
        ("", "not valid JSON"),
        ("{'b': 1}", "not valid JSON"),
        ("[1,]", "not valid JSON"),
        ("1 2", "not valid JSON"),
        ('"a\nb"', "not valid JSON"),
        ('"' + "x" * MAX_BYTES + '"', "more than 1048576 bytes"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(OutputRefused, match=reason) as refused:
        read_json(text)
    assert len(str(refused.value)) < 100, "the value is not repeated"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        ('"[[[[ {{{{ : \\" NaN 1e999 \\\\"', '[[[[ {{{{ : " NaN 1e999 \\'),
        ('"a\\u0000b"', "a\0b"),
        ('"\\ud83d\\udea2"', "🚢"),
        ("1e22", 1e22),
        ("-0.0", -0.0),
        ("0e99999", 0.0),
        ("1.50000000000000000000", 1.5),
        ("9007199254740993", 9007199254740993),
        ("18446744073709551615", 2**64 - 1),
        ('{"a": {"a": ":"}, ":": [{"a": 1}, {"a": 2}]}', {"a": {"a": ":"}, ":": [{"a": 1}, {"a": 2}]}),
    ],
)
def test_what_is_not(text: str, value: Any) -> None:
    read = read_json(text)
    assert value is None or same(read, value)


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1e5," * 200_000 + "1]",
        "[" + '"\\"",' * 150_000 + "1]",
        "{" + ",".join(f'"{n}":{n}' for n in range(70_000)) + "}",
        '"' + '\\"' * 500_000 + '"',
        '"' + "\\" * 1_000_000,
        "1e" * 500_000,
        "-" * 1_000_000,
        "[{" * 500_000,
    ],
)
def test_a_large_value_takes_a_moment_at_most(text: str) -> None:
    control = time.process_time()
    json.loads("[" + "1e5," * 200_000 + "1]")
    control = time.process_time() - control
    started = time.process_time()
    with contextlib.suppress(OutputRefused):
        read_json(text)
    assert time.process_time() - started < 40 * control + 1
