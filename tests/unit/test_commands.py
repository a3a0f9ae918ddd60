"""`::output` and its like: what is a command, what it means, and that the rest passes unchanged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.agent import commands
from pilothouse.agent.commands import (
    AddMask,
    Command,
    CommandScanner,
    Malformed,
    SetOutput,
    SetProgress,
    parse,
)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("::output version=1.2=3 ", SetOutput("version", "1.2=3 ", 13)),
        ("::output empty=", SetOutput("empty", "", 5)),
        ('::output-json m.x-1={"a": [1, null]}', SetOutput("m.x-1", {"a": [1, None]}, 21)),
        ("::progress 40 half way  there", SetProgress(40, "half way  there")),
        ("::progress 40", SetProgress(40, "")),
        ("::progress 40%", SetProgress(40, "")),
        ("::progress 400 much", SetProgress(100, "much")),
        ("::progress -3", SetProgress(0, "")),
        ("::mask hunter 2", AddMask("hunter 2")),
        ("::mask", AddMask("")),
    ],
)
def test_commands(line: str, command: Command) -> None:
    assert parse(line) == command


@pytest.mark.parametrize(
    "line",
    [
        *("::output novalue", "::output 1a=x", "::output a b=x", "::output =x", "::output"),
        *(f"::output {'n' * 129}=x", "::output-json a={'b': 1}", "::output-json a=NaN", "::output-json a="),
        *("::output-json a=" + "[" * 100_000, "::progress", "::progress soon", "::progress 4.5"),
    ],
)
def test_malformed_commands_report_the_reason_without_the_value(line: str) -> None:
    command = parse(line)
    assert isinstance(command, Malformed)
    assert len(command.reason) < 120


@pytest.mark.parametrize("line", [" ::output a=b", "::outputs a=b", "::group x", "x ::mask y", "", ":", "::"])
def test_ordinary_lines(line: str) -> None:
    assert parse(line) is None


fragments = st.lists(
    st.sampled_from(
        ["::mask s", "::output a=1", "::progress 5", "::output", "::outputx", ":", "::", "text", "\n", " "]
    )
).map("".join)


@given(text=fragments, cuts=st.lists(st.integers(0, 80)))
def test_scanning_in_pieces_is_reading_line_by_line(text: str, cuts: list[int]) -> None:
    scanner = CommandScanner()
    edges = [0, *sorted(min(at, len(text)) for at in cuts), len(text)]
    found = [part for a, b in pairwise(edges) for part in scanner.feed(text[a:b])] + scanner.flush()

    lines = [(line, parse(line.removesuffix("\n"))) for line in text.splitlines(keepends=True)]
    assert "".join(part for part in found if isinstance(part, str)) == "".join(
        line for line, command in lines if command is None
    )
    assert [part for part in found if not isinstance(part, str)] == [
        command for _, command in lines if command
    ]


def test_the_place_of_a_command_among_the_text() -> None:
    found = CommandScanner().feed("before\n::mask word\nafter\n::progress 7\n")
    assert found == ["before\n", AddMask("word"), "after\n", SetProgress(7, "")]


def test_only_what_may_be_a_command_waits_for_its_end() -> None:
    scanner = CommandScanner()
    assert scanner.feed("a\n::out") == ["a\n"]
    assert scanner.feed("side\n") == ["::outside\n"]
    assert scanner.feed(": no") == [": no"]
    assert scanner.feed("::mask x\n") == ["::mask x\n"], "not at the beginning of its line"


def test_an_endless_command_is_let_go_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_COMMAND_CHARS", 100)
    scanner = CommandScanner()
    assert scanner.feed("::output a=") == []
    assert scanner.feed("x" * 100) == ["::output a=" + "x" * 100]
    assert scanner.feed("y\n::progress 1\n") == ["y\n", SetProgress(1, "")]
