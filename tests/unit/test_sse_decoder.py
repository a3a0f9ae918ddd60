"""The event-stream format: the same messages however the bytes are cut and the lines are ended."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pilothouse.client.sse import MessageTooLarge, SseDecoder, SseMessage

line = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)
identifier = st.text("abc.019", min_size=1, max_size=6)
message = st.tuples(
    identifier, st.sampled_from(["step.logged", "run.completed"]), st.lists(line, min_size=1, max_size=3)
)
end = st.sampled_from(["\n", "\r\n", "\r"])


def decode(pieces: list[bytes]) -> list[SseMessage]:
    decoder = SseDecoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    messages=st.lists(message, max_size=4),
    ends=st.lists(end, min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 300), max_size=20),
    bom=st.booleans(),
)
def test_what_was_written_is_read(
    messages: list[tuple[str, str, list[str]]], ends: list[str], cuts: list[int], bom: bool
) -> None:
    lines: list[str] = []
    for id, event, data in messages:
        lines += [":keepalive", f"id: {id}", f"event:{event}", *(f"data: {text}" for text in data), ""]
    ended = [text + ends[number % len(ends)] for number, text in enumerate(lines)]
    assume(
        not any(a.endswith("\r") and b.startswith("\n") for a, b in pairwise(ended))
    )  # CR, then LF, is CRLF
    raw = (b"\xef\xbb\xbf" if bom else b"") + "".join(ended).encode()
    expected = [SseMessage(id, event, "\n".join(data)) for id, event, data in messages]
    assert decode(cut(raw, cuts)) == expected


pieces = st.sampled_from(
    [b"data: a", b"data", b"id: 1", b"event: x", b":", b"\r", b"\n", b"\r\n", b"\xff", b"\xc3\xbc"]
)


@given(data=st.lists(pieces, max_size=20).map(b"".join) | st.binary(max_size=50))
def test_any_bytes_give_the_same_one_by_one(data: bytes) -> None:
    assert decode([bytes([byte]) for byte in data]) == decode([data])


@given(cuts=st.lists(st.integers(0, 60), max_size=60))
def test_a_crlf_cut_in_two_is_one_line_end(cuts: list[int]) -> None:
    raw = b"id: 1\r\nevent: x\r\ndata: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n"
    assert decode(cut(raw, cuts)) == [SseMessage("1", "x", "a\nb"), SseMessage("1", "message", "c")]


def test_an_unfinished_message_moves_no_cursor() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n") == [SseMessage("1", "message", "a")]
    assert decoder.last_id == "1"
    assert decoder.feed(b"\n") == [SseMessage("2", "message", "b")]
    assert decoder.last_id == "2"


def test_an_id_is_kept_until_another_comes_and_needs_no_data() -> None:
    assert decode([b"id: 7\n\ndata: a\n\ndata: b\n\n"]) == [
        SseMessage("7", "message", "a"),
        SseMessage("7", "message", "b"),
    ]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data\n\n", [SseMessage("", "message", "")]),
        (b"data:  two spaces\n\n", [SseMessage("", "message", " two spaces")]),
        (b"event: x\n\ndata: a\n\n", [SseMessage("", "message", "a")]),
        (b"unknown: x\ndata: a\n\n", [SseMessage("", "message", "a")]),
        (b"id: a\0b\ndata: a\n\n", [SseMessage("", "message", "a")]),
        (b":only a comment\n\n", []),
        (b"data: \xff\n\n", [SseMessage("", "message", "\ufffd")]),
    ],
)
def test_fields(raw: bytes, expected: list[SseMessage]) -> None:
    assert decode([raw]) == expected


def test_retry_is_read_if_it_is_a_number() -> None:
    decoder = SseDecoder()
    decoder.feed(b"retry: 5000\n\nretry: soon\n\n")
    assert decoder.retry == 5000


def test_a_message_has_a_bound() -> None:
    decoder = SseDecoder(max_message=100)
    for _ in range(50):
        decoder.feed(b"data: 0123456789\n\n")  # many small ones are fine
    with pytest.raises(MessageTooLarge):
        for _ in range(20):
            decoder.feed(b"data: 0123456789\n")
