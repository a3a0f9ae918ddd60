"""JSON, YAML and text for terminals: server data never controls the terminal."""

from __future__ import annotations

import io
import json
import re
import sys
from enum import StrEnum
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.cli import documents
from pilothouse.cli.output import Format, Output
from pilothouse.cli.text import all_safe, safe

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
NASTY = [
    "\x1b[2J",
    "\x9b2J",
    "\x85",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\x7f",
    "\x00",
    "\r",
    "\u2028",
    "\u061c",
    "\u0090q\u009c",
]

text = st.one_of(
    st.text(), st.sampled_from(NASTY), st.text(alphabet="\x1b\x9b\x85[2Ju\u202e\u2066é\n\t\"'\\")
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def survives(value: Any) -> Any:
    """The value as UTF-8 can hold it."""
    return json.loads(json.dumps(value).encode("utf-8", "replace"))


@given(values)
def test_json_has_the_same_content_and_no_cursor_movement(value: Any) -> None:
    for written in (documents.json(value), documents.json_line(value)):
        assert not OBEYED.search(written)
        assert json.loads(written) == value
    assert documents.json_line(value).count("\n") == 1


@given(values)
def test_yaml_says_the_same_and_moves_no_terminal(value: Any) -> None:
    written = documents.yaml(value)
    assert not OBEYED.search(written)
    assert yaml.safe_load(written) == value


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, 1 << 70, -(1 << 90), [10**100, "\ud83d"]])
def test_what_a_fast_encoder_refuses(value: Any) -> None:
    assert json.loads(documents.json(value)) == value
    assert not OBEYED.search(documents.yaml(value))


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize("format", list(Format))
def test_no_way_out_lets_it_through(monkeypatch: pytest.MonkeyPatch, nasty: str, format: Format) -> None:
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in "ab")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    out = Output(format)
    out.say(f"name {nasty} of\nsomething", "red")
    out.note(nasty)
    out.line(nasty)
    out.document({"name": nasty, nasty: [nasty]})
    out.table(("NAME",), [(nasty,)], "")
    out.fields([("name", nasty), ("more", [nasty])])
    written = b"".join(stream.buffer.getvalue() for stream in (stdout, stderr)).decode()  # type: ignore[attr-defined]
    assert written.count("name") >= 2
    assert not OBEYED.search(written), repr(written)


@given(st.lists(text))
def test_many_lines_are_made_safe_as_one_by_one(lines: list[str]) -> None:
    assert all_safe(lines) == [safe(line) for line in lines]


def test_values_of_types_made_of_texts_and_numbers() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Size(int):
        pass

    value = {"colour": Colour.RED, "size": Size(5), "yes": True}
    assert yaml.safe_load(documents.yaml(value)) == {"colour": "red", "size": 5, "yes": True}
