"""For any input a decoder returns a value or raises its documented error, within bounded time and memory."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilothouse.agent.results import Result, ResultStore
from pilothouse.agent.spool import Spool, frame, unframe
from pilothouse.engine.grpc import raw_batch
from pilothouse.engine.intake.batches import MAX_RAW, BatchInvalid, read_lines
from pilothouse.journal import Cursor, CursorError
from pilothouse.pipelines.spec import SpecError, parse_spec
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from pilothouse.wire.masking import Masker
from support.faults.effort import Effort
from support.faults.fleet import ROUNDS
from support.faults.targets_agent import frames, heard

NONE, GZIP, ZSTD = (
    pb.LogBatch.COMPRESSION_NONE,
    pb.LogBatch.COMPRESSION_GZIP,
    pb.LogBatch.COMPRESSION_ZSTD,
)
often = settings(max_examples=300 * ROUNDS, deadline=None)
EPOCH = "0123abcd"


def batch(data: bytes, compression: Any = NONE, raw_size: int = 0) -> pb.LogBatch:
    return pb.LogBatch(batch_id="b", data=data, compression=compression, raw_size=raw_size)


# -- cursors --------------------------------------------------------------------------------------------


@often
@given(
    st.text()
    | st.from_regex(r"[0-9a-f]{8}\.\d{0,30}\.\d{0,30}")
    | st.binary().map(lambda b: b.decode("latin-1"))
)
@example("0123abcd.1.0\n")
@example("0123abcd.-1.0")
@example("0123abcd.١.٢")
@example("9" * 100_000)
def test_unknown_cursors_are_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text, EPOCH)
    except CursorError:
        return
    assert cursor.text(EPOCH) == ".".join((text[:8], *(str(int(part)) for part in text.split(".")[1:])))
    assert cursor.offset < 1 << 63, "no database could look it up"
    assert text.isascii(), "digits of other scripts were never given out"


@often
@given(st.integers(0, 10**18 - 1), st.integers(0, 10**9 - 1))
def test_a_cursor_comes_back_as_it_was(offset: int, k: int) -> None:
    assert Cursor.parse(Cursor(offset, k).text(EPOCH), EPOCH) == Cursor(offset, k)


# -- specs ----------------------------------------------------------------------------------------------

BOMBS = [
    "a: &a [x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '*a'] * 9)}]\n" for n in range(12)),
    "jobs: " + "[" * 20_000,
    "jobs: " + "{a: " * 5_000,
    "? " * 20_000,
    "- " * 20_000,
    "jobs: &a\n  - *a\n",
    "jobs: !!python/object/apply:os.system ['true']",
    "jobs: [{name: a, steps: [{name: s, uses: shell, args: {command: '" + "${{ " * 5000 + "'}}]}]",
    "\ufeff\x00\x07",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_a_spec_that_is_a_bomb(text: str) -> None:
    with Effort() as effort, pytest.raises(SpecError):
        parse_spec(text)
    assert effort.units < 5000


# -- log batches ----------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
logs = st.dictionaries(
    st.sampled_from(["content", "stream", "level", "timestamp", "x"]), anything, max_size=5
)


@often
@given(st.binary() | st.lists(logs).map(lambda many: b"\n".join(map(orjson.dumps, many))), st.booleans())
@example(b'{"content":"a\\nb","stream":"stderr"}\n[]', True)
@example(b"[" * 5000, True)
@example(b'{"content":{"a":[]},"level":["x"],"stream":{}}', True)
def test_a_plain_batch_is_lines_or_refused(data: bytes, ndjson: bool) -> None:
    try:
        found = read_lines(raw_batch(batch(data), ndjson))
    except BatchInvalid:
        assert ndjson
        return
    assert all(isinstance(line, str) and "\n" not in line and "\x00" not in line for line in found.lines)
    assert all(0 <= at < len(found.lines) for at in [*found.stderr, *found.levels])
    assert all(isinstance(level, str) for level in found.levels.values())
    orjson.dumps(found.lines)  # the journal can hold them


@often
@given(st.lists(st.text(st.characters(exclude_characters="\n\r\x00", exclude_categories=["Cs"]))))
def test_lines_come_out_as_they_went_in(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    packed = zstandard.ZstdCompressor().compress(data)
    for one in (
        batch(data, NONE, len(data)),
        batch(gzip.compress(data), GZIP, len(data)),
        batch(packed, ZSTD, len(data)),
    ):
        assert read_lines(raw_batch(one, False)).lines == lines


@pytest.mark.parametrize("how", [GZIP, ZSTD], ids=["gzip", "zstd"])
@often
@given(data=st.data())
def test_damaged_batches_are_refused(how: Any, data: st.DataObject) -> None:
    """Any flipped bit: the batch is refused or decoded as it was, never differently or partially."""
    plain = b"".join(b"line %d\n" % n for n in range(200))
    packed = bytearray(
        gzip.compress(plain) if how == GZIP else zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    )
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read_lines(raw_batch(batch(bytes(packed), how, len(plain)), False))
    except BatchInvalid:
        return
    assert found.lines == plain.decode().splitlines()


@pytest.mark.parametrize("how", [GZIP, ZSTD], ids=["gzip", "zstd"])
@often
@given(st.binary(min_size=1))
def test_noise_is_refused(how: Any, noise: bytes) -> None:
    magic = b"\x1f\x8b\x08\0\0\0\0\0\0\3" if how == GZIP else b"\x28\xb5\x2f\xfd"
    for data in (noise, magic + noise):
        try:
            read_lines(raw_batch(batch(data, how), False))
        except BatchInvalid:
            continue


@pytest.mark.parametrize("how", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_a_batch_that_was_cut_off_is_refused(how: Any) -> None:
    """Also if its size is not declared: acknowledging it would lose the rest."""
    plain = b"".join(b"line %d %d\n" % (n, hash(n * 7919)) for n in range(20_000))
    packed = gzip.compress(plain) if how == GZIP else zstandard.ZstdCompressor().compress(plain)
    for kept in (len(packed) - 1, len(packed) - 9, len(packed) // 2, 20):
        with pytest.raises(BatchInvalid):
            read_lines(raw_batch(batch(packed[:kept], how), False))


@pytest.mark.parametrize("how", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_a_batch_of_several_frames_is_read_whole_or_refused(how: Any) -> None:
    pack = gzip.compress if how == GZIP else zstandard.ZstdCompressor().compress
    try:
        found = read_lines(raw_batch(batch(pack(b"one\n") + pack(b"two\n"), how), False))
    except BatchInvalid:
        return
    assert found.lines == ["one", "two"]


@pytest.mark.parametrize("how", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_a_bomb_costs_no_more_than_a_full_batch(how: Any) -> None:
    zeros = b"\0" * (64 << 20)
    bomb = gzip.compress(zeros, 9) if how == GZIP else zstandard.ZstdCompressor(level=19).compress(zeros)
    del zeros
    assert len(bomb) < 100_000
    tracemalloc.start()
    with Effort() as effort, pytest.raises(BatchInvalid):
        read_lines(raw_batch(batch(bomb, how), False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_RAW
    assert effort.units < 3000


# -- the agent's spool ----------------------------------------------------------------------------------


@often
@given(st.lists(st.binary(min_size=1)), st.data())
def test_a_torn_spool_gives_whole_records_from_the_beginning(
    records: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(map(frame, records))
    cut = data.draw(st.integers(0, len(whole)))
    found = [payload for payload, _ in unframe(whole[:cut] + data.draw(st.binary(max_size=40)))]
    kept = [payload for payload, end in unframe(whole) if end <= cut]
    assert kept == records[: len(kept)]
    assert found[: len(kept)] == kept


def test_a_damaged_record_costs_no_more_than_the_file(tmp_path: Path) -> None:
    """Its size field may hold any value and must not determine an allocation."""
    header = (0xFFFFFFF0).to_bytes(4, "little") + bytes(4)
    for first in (1, 3):  # records of a segment that is not the last are looked at when they are read
        (tmp_path / f"{first:020d}.seg").write_bytes(frame(b"one") + header + b"x" * 100)
    spool = Spool(tmp_path)
    tracemalloc.start()
    found, mark = [], spool.head
    while (read := spool.read(mark)) is not None:
        found.append(read[0])
        mark = read[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spool.close()
    assert found == [b"one", b"one"]
    assert peak < 1 << 20


async def test_results_of_another_version_stop_no_agent(tmp_path: Path) -> None:
    """Unreadable records are skipped; known fields of the others are used."""
    kept = {
        "step_run_id": "s",
        "status": "failed",
        "exit_code": 1,
        "error": "",
        "started_at": 1,
        "ended_at": 2,
    }
    records: list[Any] = [[], 17, None, {"status": "failed"}, {"settled": []}, {**kept, "exit_code": "1"}]
    records += [{**kept, "signal": 9}]  # a key of a newer version
    (tmp_path / "results").write_bytes(frame(b"{") + b"".join(frame(orjson.dumps(one)) for one in records))
    store = ResultStore(tmp_path / "results")
    assert store.unsettled == {"s": Result("s", "failed", 1, "", 1, 2)}
    await store.close()


# -- masking ----------------------------------------------------------------------------------------------


def test_no_character_before_a_secret_is_masked_with_it() -> None:
    """A character that may begin another secret is held back, and printed if it does not."""
    masker = Masker(["-aaaa?", "aaaa"])
    assert [masker.feed("-"), masker.feed("aaaa"), masker.feed(" b"), masker.flush()][-2:] == ["-*** b", ""]
    assert masker.feed("x-aaaa") + masker.feed("aa-") + masker.flush() == masker.mask("x-aaaaaa-")


# -- WebSockets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one piece"])
async def test_messages_before_the_close_are_received(together: bool) -> None:
    said, goodbye = frames((0x81, b"last words")), frames((0x88, b"\x03\xe8"))
    pieces = [said + goodbye] if together else [said, goodbye]
    assert await heard(pieces) == (["last words"], True)
