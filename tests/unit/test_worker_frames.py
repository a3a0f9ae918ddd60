"""Frames between the pool and its workers: whole again from any pieces, and never more than is allowed."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.workers import frames
from pilothouse.workers.frames import Decoder, Frame, FrameError, FrameTooLarge, encode

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)
FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.lists(PLAIN | st.binary(max_size=3000), max_size=8).map(tuple),
)
LIMIT = 1 << 20


def decoded(decoder: Decoder, data: bytes, sizes: list[int]) -> list[Frame]:
    found = []
    while data:
        size = sizes.pop() if sizes else len(data)
        decoder.feed(data[:size])
        data = data[size:]
        while (frame := decoder.next()) is not None:
            found.append(frame)
    return found


@given(st.lists(FRAMES, max_size=4), st.lists(st.integers(1, 50), max_size=200))
def test_what_is_encoded_is_decoded_from_any_pieces(sent: list[Frame], sizes: list[int]) -> None:
    data = b"".join(piece for frame in sent for piece in encode(frame, LIMIT))
    assert decoded(Decoder(LIMIT), data, sizes) == sent


@given(FRAMES, st.data())
def test_a_part_of_a_frame_is_none(sent: Frame, data: st.DataObject) -> None:
    whole = b"".join(encode(sent, LIMIT))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert decoded(Decoder(LIMIT), whole[:cut], []) == []


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=50))
def test_noise_is_refused_or_decoded(noise: bytes, sizes: list[int]) -> None:
    with contextlib.suppress(FrameError):
        decoded(Decoder(1000), noise, sizes)


@given(FRAMES, st.data())
def test_one_byte_changed(sent: Frame, data: st.DataObject) -> None:
    whole = bytearray(b"".join(encode(sent, LIMIT)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FrameError):
        decoded(Decoder(LIMIT), bytes(whole), [])


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_are_there() -> None:
    head = b"".join(encode(Frame(1, 1, (b"x" * 101,)), LIMIT))[:-101]
    decoder = Decoder(100)
    decoder.feed(head)
    with pytest.raises(FrameTooLarge):
        decoder.next()
    Decoder(101).feed(head)


def test_too_many_values_are_refused_by_the_head_alone() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(frames.HEAD.pack(1, 1, frames.MAX_VALUES + 1))
    with pytest.raises(FrameTooLarge):
        decoder.next()


def test_the_limit_counts_what_is_sent() -> None:
    assert encode(Frame(1, 1, (b"x" * 60, "x" * 38)), 100)
    with pytest.raises(FrameTooLarge):
        encode(Frame(1, 1, (b"x" * 60, "x" * 39)), 100)
    with pytest.raises(FrameTooLarge):
        encode(Frame(1, 1, ("x" * frames.MAX_JSON,)), 1 << 30)
    assert encode(Frame(1, 1, (b"x" * frames.MAX_JSON * 2,)), 1 << 30)


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800", {1: 2}, {b"x": 1}, [b"x"], {"x": b"x"}, 1j])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(Frame(1, 1, (value,)), LIMIT)


def test_infinities_become_null() -> None:
    [frame] = decoded(Decoder(LIMIT), b"".join(encode(Frame(1, 1, (math.inf,)), LIMIT)), [])
    assert frame.values == (None,)


@pytest.mark.parametrize(
    ("kind", "values", "is_one"),
    [
        (frames.DONE, (1,), True),
        (frames.RAISED, ("ValueError", "x.py:1"), True),
        (frames.RAISED, (), False),
        (frames.RAISED, ("ValueError", 3), False),
        (frames.STARTED, (), False),
        (frames.JOB, (), False),
        (77, (), False),
    ],
)
def test_answers(kind: int, values: tuple[Any, ...], is_one: bool) -> None:
    assert frames.is_answer(Frame(kind, 1, values)) is is_one
