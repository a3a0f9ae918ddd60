"""Forms with a file (blobs/assets/multipart.py), however the network cuts them; and names of uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.blobs.assets.model import Part, base_name, good_name, pieces
from pilothouse.blobs.assets.multipart import SLICE, Form
from pilothouse.blobs.errors import UploadInvalid
from pilothouse.edge.pace import Pace

BOUNDARY = b"--b0"
NEARLY = st.sampled_from(
    [b"\r", b"\n", b"-", b"\r\n--b0", b"\r\n----b", b"\r\n----b0x", b"\r\n----b0-", b"x"]
)


def form(content: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="f.bin"\r\n\r\n'
    last = b'Content-Disposition: form-data; name="name"\r\n\r\ntold\r\n'
    parts = [b"--" + BOUNDARY + b"\r\n" + each for each in (head + content + b"\r\n", last)]
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def read(body: bytes, cuts: list[int]) -> tuple[bytes, Form]:
    """What comes out of a body that arrives in pieces."""
    found = Form(f"multipart/form-data; boundary={BOUNDARY.decode()}")

    async def chunks() -> AsyncIterator[bytes]:
        places = sorted({0, *(cut % (len(body) + 1) for cut in cuts), len(body)})
        for start, stop in pairwise(places):
            yield body[start:stop]

    async def everything() -> bytes:
        return b"".join([piece async for piece in found.content(chunks(), partial(Pace(1).turn, "ann"))])

    return asyncio.run(everything()), found


@given(st.lists(NEARLY, max_size=12), st.lists(st.integers(0, 500), max_size=12))
def test_a_file_is_what_was_sent(pieces: list[bytes], cuts: list[int]) -> None:
    content = b"".join(pieces)
    if b"\r\n--" + BOUNDARY in b"\r\n" + content + b"\r\n":
        return  # then it has ended there
    got, found = read(form(content), cuts)
    assert got == content
    assert (found.filename, found.fields) == ("f.bin", {"name": "told"})


@given(st.integers(0, 200), st.lists(st.integers(0, 500), max_size=4))
def test_a_form_that_is_cut_is_refused(size: int, cuts: list[int]) -> None:
    body = form(b"content")
    if size < len(body) - 2:  # the last line break may be missing
        with pytest.raises(UploadInvalid):
            read(body[:size], cuts)


@pytest.mark.parametrize(
    "media",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 999],
)
def test_bad_boundaries(media: str) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    async def read() -> None:
        async for _ in Form(media).content(nothing(), partial(Pace(1).turn, "ann")):
            pass

    with pytest.raises(UploadInvalid):
        asyncio.run(read())


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 120), st.integers(0, 120))
def test_ranges_of_parts(sizes: list[int], start: int, stop: int) -> None:
    parts, at = [], 0
    for number, size in enumerate(sizes):
        parts.append(Part(str(number), at, size))
        at += size
    content = {part.key: bytes(range(part.start, part.start + part.size)) for part in parts}
    stop = min(stop, at)
    found = b"".join(content[key][first:last] for key, first, last in pieces(parts, start, stop))
    assert found == bytes(range(at))[start:stop]


def test_names() -> None:
    assert base_name("/tmp/a/b.txt") == "b.txt"
    assert base_name("C:\\Users\\ann\\b.txt") == "b.txt"
    for good in ("a", "b.tar.gz", "ä ö", "x" * 255, ".hidden"):
        assert good_name(good), good
    for bad in ("", ".", "..", "a/b", "a\\b", "a\x00", "a\n", " a", "a ", "x" * 256, "\ud800"):
        assert not good_name(bad), bad


def test_forms_that_arrive_at_once_are_parsed_one_slice_in_an_iteration() -> None:
    """A form in which boundaries seem to begin everywhere is slow: many of them must not delay everybody else."""
    body, pace, at_once = form(b"\r\n----b0x" * 10_000), Pace(1), 8

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async def whole() -> int:
        found = Form(f"multipart/form-data; boundary={BOUNDARY.decode()}")
        return sum([len(piece) async for piece in found.content(chunks(), partial(pace.turn, "ann"))])

    async def iterations() -> int:
        reading, count = asyncio.gather(*(whole() for _ in range(at_once))), 0
        while not reading.done():
            await asyncio.sleep(0)
            count += 1
        return count

    assert asyncio.run(iterations()) >= at_once * len(body) // SLICE
