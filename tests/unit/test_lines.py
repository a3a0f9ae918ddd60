"""Bytes to lines: the same lines however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.agent.lines import LineAssembler, TextDecoder

noisy = st.lists(
    st.sampled_from(
        [b"a", b"\r", b"\n", b"\r\n", b"\0", b"\xff", "ü".encode(), "€".encode(), "🚢".encode(), b"\x1b[1m"]
    )
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


@given(data=noisy, cuts=st.lists(st.integers(0, 60)), limit=st.integers(1, 12))
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


def test_a_line_without_end_needs_no_memory() -> None:
    assembler = LineAssembler(1000)
    for _ in range(500):
        assert assembler.feed("x" * 10_000) == []
    assert len(assembler._partial) == 1000
    assert assembler.feed("\nnext\n") == ["x" * 1000 + " … [line cut: 4999000 bytes dropped]", "next"]


def test_what_stays_in_a_line() -> None:
    lines = assemble(decode([b" 10%\r 20%\r\n\x1b[31mred\x1b[0m\x0b\x0c\xe2\x80\xa8same\r", b"\nend\r"]), 100)
    assert lines == [" 10%\r 20%", "\x1b[31mred\x1b[0m\x0b\x0c\u2028same", "end\r"]


def test_empty_lines_are_lines_and_no_text_is_none() -> None:
    assert assemble(["\n\na\n"], 100) == ["", "", "a"]
    assert assemble([""], 100) == []
