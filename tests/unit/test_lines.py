"""Bytes to lines: the same lines however the bytes are cut."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.agent.lines import LineAssembler, TextDecoder

noisy = st.lists(
    st.sampled_from(
        [
            *(b"a", b"\r", b"\n", b"\r\n", b"\0", b"\xff", "ü".encode(), "€".encode(), "🚢".encode()),
            *(b"bc", b" ", b"\x1b", b"\x1b[1m", b"\x1b[K", b"\x1b[2K", b"\x1b[1G", b"\x1b[?25h"),
        ]
    )
).map(b"".join)
plain = st.lists(
    st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b" ", "ü".encode(), b"\x1b[1m", b"\x1b[K"])
).map(b"".join)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def decode(pieces: list[bytes]) -> list[str]:
    decoder = TextDecoder()
    return [*map(decoder.feed, pieces), decoder.feed(b"", final=True)]


def assemble(pieces: list[str], limit: int) -> list[str]:
    assembler = LineAssembler(limit)
    return [line for piece in pieces for line in assembler.feed(piece)] + assembler.flush()


@given(data=noisy, cuts=st.lists(st.integers(0, 60)))
def test_decoding_does_not_depend_on_the_chunks(data: bytes, cuts: list[int]) -> None:
    plain = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\0", "\ufffd")
    assert "".join(decode(cut(data, cuts))) == plain


@given(data=plain, cuts=st.lists(st.integers(0, 60)), limit=st.integers(1, 12))
def test_lines_do_not_depend_on_the_chunks(data: bytes, cuts: list[int], limit: int) -> None:
    whole = "".join(decode([data]))
    expected = whole.removesuffix("\n").split("\n") if whole else []
    lines = assemble(decode(cut(data, cuts)), limit)
    assert len(lines) == len(expected)
    for line, full in zip(lines, expected, strict=True):
        size = len(full.encode())
        if size <= limit:
            assert line == full
            continue
        kept, notice = line.split(" … ")
        assert full.startswith(kept)
        assert limit - 3 <= len(kept.encode()) <= limit, "cut as late as the characters allow"
        assert notice == f"[line cut: {size - len(kept.encode())} bytes dropped]"


@given(data=noisy, cuts=st.lists(st.integers(0, 60)), limit=st.integers(1, 40))
def test_rewriting_does_not_depend_on_the_chunks(data: bytes, cuts: list[int], limit: int) -> None:
    whole = decode([data])
    assert assemble(decode(cut(data, cuts)), limit) == assemble(whole, limit)
    assert assemble(list("".join(whole)), limit) == assemble(whole, limit), "and a character at a time"


def by_segments(line: str) -> str:
    """What is left of a line without escape sequences: of what returns separate the last that is something."""
    segments = [segment for segment in line.split("\r") if segment]
    last = segments[-1] if segments else ""
    return last if last.strip() or "\r" not in line else ""


@given(lines=st.lists(st.text(alphabet="ab \r", max_size=12).filter(lambda line: not line.endswith("\r"))))
def test_of_a_rewritten_line_the_last_state_is_kept(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assert assemble([text], 100) == [by_segments(line) for line in lines]


@given(data=plain, cuts=st.lists(st.integers(0, 60)), shown=st.sets(st.integers(0, 60)))
def test_what_is_shown_early_is_not_shown_again(data: bytes, cuts: list[int], shown: set[int]) -> None:
    """At some of the cuts the unfinished line is shown: all text once, in order; no line lost, none made up."""
    assembler, told, parts = LineAssembler(1000), [], []
    for index, piece in enumerate(decode(cut(data, cuts))):
        told += [(line, True) for line in assembler.feed(piece)]
        if index in shown:
            early = assembler.show()
            assert all(early), "an empty line is no news"
            told += [(line, False) for line in early]
            parts += early
    told += [(line, True) for line in assembler.flush()]
    whole = "".join(decode([data]))
    assert "".join(line for line, _ in told) == whole.replace("\n", "")
    expected = whole.removesuffix("\n").split("\n") if whole else []
    assert len(expected) <= len(told) <= len(expected) + len(parts)
    assert [line for line in told if not line[0]].count(("", True)) == expected.count(""), "empty lines"


@given(
    states=st.lists(st.sampled_from(["10%", "20%", "100%", "done"]), min_size=1, max_size=8),
    shown=st.sets(st.integers(0, 8)),
    before=st.booleans(),
    clear=st.sampled_from(["", "\x1b[K", "\x1b[2K", "\x1b[1G"]),
    end=st.booleans(),
)
def test_each_state_of_a_bar_is_shown_at_most_once(
    states: list[str], shown: set[int], before: bool, clear: str, end: bool
) -> None:
    """With the return before or behind each state, as programs do."""
    assembler, lines = LineAssembler(100), []
    assembler.feed("\r")  # only behind a return is an erasure a part of the rewriting
    for index, state in enumerate(states):
        lines += assembler.feed(f"\r{clear}{state}" if before else f"{clear}{state}\r")
        if index in shown:
            lines += assembler.show()
            assert not assembler.unshown
    lines += assembler.feed("\n") if end and before else []
    lines += assembler.flush()
    looked_at = [state for index, state in enumerate(states) if index in shown] + [states[-1]]
    assert lines == [state for state, same in groupby(looked_at)]


def test_a_line_without_end_needs_no_memory() -> None:
    assembler = LineAssembler(1000)
    for _ in range(500):
        assert assembler.feed("x" * 10_000) == []
    assert len(assembler._partial) == 1000
    assert assembler.feed("\nnext\n") == ["x" * 1000 + " … [line cut: 4999000 bytes dropped]", "next"]


def test_what_stays_in_a_line() -> None:
    lines = assemble(decode([b" 10%\r 20%\r\n\x1b[31mred\x1b[0m\x0b\x0c\xe2\x80\xa8same\r", b"\nend\r"]), 100)
    assert lines == [" 20%", "\x1b[31mred\x1b[0m\x0b\x0c\u2028same", "end"]


def test_empty_lines_are_lines_and_no_text_is_none() -> None:
    assert assemble(["\n\na\n"], 100) == ["", "", "a"]
    assert assemble([""], 100) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("10%\r20%\r\x1b[K", []),
        ("10%\r20%\r     \r", []),
        ("10%\r\x1b[Kdone\n", ["done"]),
        ("10%\x1b[2K\rdone\n", ["done"]),
        ("\x1b[1G10%\x1b[0K\x1b[1G20%\x1b[0K", ["20%\x1b[0K"]),
        ("100%\r\x1b[?25h\n", ["100%\x1b[?25h"]),
        ("\x1b[01;31m\x1b[Kfound\x1b[m\x1b[K it\n", ["\x1b[01;31m\x1b[Kfound\x1b[m\x1b[K it"]),
        ("a\r\x1b[32mgreen\x1b[0m\n", ["\x1b[32mgreen\x1b[0m"]),
        ("\r\n\r\n", ["", ""]),
        ("x\r\r\r\n", ["x"]),
    ],
)
def test_ways_of_rewriting(text: str, lines: list[str]) -> None:
    assert assemble([text], 100) == lines


def test_a_bar_drawn_for_hours_needs_no_memory() -> None:
    assembler = LineAssembler(1000)
    for n in range(5000):
        assert assembler.feed(f"\r{n} {'#' * 3000}\x1b[31m") == []
    assert len(assembler._partial) <= 1000
    assert assembler.feed("\n")[0].startswith("4999 ###")
    for _ in range(5000):
        assert assembler.feed("\r\x1b[31m\x1b[31m\x1b") == []
    assert len(assembler._invisible) < 5000
    for _ in range(5000):
        assembler.feed(".")
        assembler.show()
    assert len(assembler._shown or "") <= 1000


def test_a_continued_line_that_is_then_rewritten() -> None:
    assembler = LineAssembler(100)
    assert assembler.feed("abc") == []
    assert assembler.show() == ["abc"]
    assert assembler.feed("def") == []
    assert assembler.show() == ["def"]
    assert assembler.feed("\rabcdef") == []
    assert assembler.show() == [], "it looks as before"
    assert assembler.feed("\rxyz\nnext") == ["xyz"]
    assert assembler.show() == ["next"]
    assert assembler.feed("\n\n") == [""], "its end is no line, the empty line after it is one"
