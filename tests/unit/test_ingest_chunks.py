"""Batches of log lines: unpacked, and cut into entries that are never too large."""

from __future__ import annotations

import contextlib
import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.grpc import raw_batch
from pilothouse.engine.intake.batches import MAX_RAW, BatchInvalid, read_lines
from pilothouse.engine.intake.ingest import chunks
from pilothouse.wire import entries
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb

GZIP, ZSTD = pb.LogBatch.COMPRESSION_GZIP, pb.LogBatch.COMPRESSION_ZSTD

# Few examples are long enough by themselves: a line is a character, repeated.
lines_of_any_length = st.lists(
    st.builds(
        lambda text, times: text * times, st.sampled_from(["", "x", "é", "✓", "🚀"]), st.integers(0, 30_000)
    ),
    max_size=30,
)
many_lines = st.integers(0, 1001).map(lambda count: [f"line {n}" for n in range(count)])


@settings(max_examples=150, deadline=None)
@given(st.one_of(lines_of_any_length, many_lines))
def test_chunks_hold_every_line_once_and_in_order(lines: list[str]) -> None:
    cut = chunks(lines)
    assert [line for start, stop in cut for line in lines[start:stop]] == lines
    assert all(start < stop for start, stop in cut), "no empty entries"


@settings(max_examples=150, deadline=None)
@given(st.one_of(lines_of_any_length, many_lines))
def test_no_chunk_is_larger_than_the_design_allows(lines: list[str]) -> None:
    """design.md: at most 200 lines or 64 KiB; one line that is larger stands alone."""
    for start, stop in chunks(lines):
        size = sum(len(line.encode()) for line in lines[start:stop])
        assert stop - start <= entries.CHUNK_LINES
        assert size <= entries.CHUNK_BYTES or stop - start == 1


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [1]), (200, [200]), (201, [200, 1]), (400, [200, 200]), (450, [200, 200, 50])],
)
def test_chunks_are_as_few_as_can_be(count: int, expected: list[int]) -> None:
    assert [stop - start for start, stop in chunks(["x"] * count)] == expected


# -- unpacking --------------------------------------------------------------------------------------------


def batch(
    data: bytes, compression: pb.LogBatch.Compression.ValueType = pb.LogBatch.COMPRESSION_NONE
) -> pb.LogBatch:
    made = pb.LogBatch(batch_id="b", data=data, compression=compression)
    made.meta.seq = 7
    made.meta.step_id = "try-1"
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\nb", ["a", "b"]),
        ("a\n\n", ["a", ""]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("10%\r20%\n", ["10%\r20%"]),
        ("nul\x00\n", ["nul\ufffd"]),
        ("a\u2028b\x0cc\n", ["a\u2028b\x0cc"]),
    ],
)
def test_text_is_lines(text: str, expected: list[str]) -> None:
    read = read_lines(raw_batch(batch(text.encode()), False))
    assert read.lines == expected
    assert (read.seq, read.batch_id, read.step_run_id) == (7, "b", "try-1")


def test_what_is_no_utf8_is_replaced_and_not_refused() -> None:
    assert read_lines(raw_batch(batch(b"caf\xe9\n"), False)).lines == ["caf\ufffd"]


@pytest.mark.parametrize("compression", [GZIP, ZSTD])
def test_compressed_batches_are_understood(compression: pb.LogBatch.Compression.ValueType) -> None:
    text = b"one\ntwo\n" * 1000
    packed = gzip.compress(text) if compression == GZIP else zstandard.compress(text)
    made = batch(packed, compression)
    made.raw_size = len(text)
    assert len(read_lines(raw_batch(made, False)).lines) == 2000
    made.raw_size += 1
    with pytest.raises(BatchInvalid, match="raw_size"):
        read_lines(raw_batch(made, False))


def corrupt(packed: bytes) -> list[bytes]:
    """Not that format at all, cut short, and with bits turned over at every place."""
    turned = [packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :] for at in range(len(packed))]
    return [b"nonsense", b"", packed[: len(packed) // 2], *turned]


@pytest.mark.parametrize("compression", [GZIP, ZSTD])
def test_a_batch_that_cannot_be_unpacked_is_refused_and_breaks_nothing(
    compression: pb.LogBatch.Compression.ValueType,
) -> None:
    """A batch is rejected (its number in ``rejected_seqs``); any other exception would end the whole call."""
    text = b"some lines\nthat are packed\n" * 3
    for packed in corrupt(gzip.compress(text) if compression == GZIP else zstandard.compress(text)):
        made = batch(packed, compression)
        made.raw_size = len(text)
        with contextlib.suppress(BatchInvalid):  # a turned bit in a header may also be harmless
            read_lines(raw_batch(made, False))


@pytest.mark.parametrize("compression", [GZIP, ZSTD, pb.LogBatch.COMPRESSION_NONE])
def test_a_bomb_is_not_unpacked(compression: pb.LogBatch.Compression.ValueType) -> None:
    data = b"\n" * (MAX_RAW + 1)
    packed = {GZIP: gzip.compress, ZSTD: zstandard.compress}.get(compression, bytes)(data)
    with pytest.raises(BatchInvalid, match="more than"):
        read_lines(raw_batch(batch(packed, compression), False))


def test_ndjson_lines_have_streams_and_levels() -> None:
    logs = [
        {"content": "out"},
        {"content": "err", "stream": "stderr", "level": "error"},
        {"content": "two\nlines", "stream": "stderr", "level": "info"},
    ]
    read = read_lines(raw_batch(batch("\n".join(map(json.dumps, logs)).encode()), True))
    assert read.lines == ["out", "err", "two", "lines"]
    assert read.stderr == [1, 2, 3]
    assert read.levels == {1: "error"}


@pytest.mark.parametrize("line", ["plain text", "[1]", '"x"', "{", "null", "1"])
def test_ndjson_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(BatchInvalid):
        read_lines(raw_batch(batch(line.encode()), True))
