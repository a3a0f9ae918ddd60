"""The spool and the store of results: order, survival, torn tails, numbering; and how lines are encoded."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.agent.errors import SpoolFull
from pilothouse.agent.log_batches import MAX_BYTES, MAX_LINES, LogBatches, encode_lines
from pilothouse.agent.results import Result, ResultStore
from pilothouse.agent.spool import Spool, frame, unframe
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from support.waiting import PATIENCE

PAYLOADS = st.lists(st.binary(min_size=1, max_size=60), max_size=40)


def rest(spool: Spool) -> list[bytes]:
    """All pending payloads."""
    found, mark = [], spool.head
    while (record := spool.read(mark)) is not None:
        payload, mark = record
        found.append(payload)
    return found


def release(spool: Spool, count: int) -> None:
    mark = spool.head
    for _ in range(count):
        record = spool.read(mark)
        assert record is not None
        mark = record[1]
    spool.release(mark)


@given(PAYLOADS, st.integers(0, 40), st.integers(30, 400))
@settings(max_examples=60, deadline=None)
def test_what_was_not_released_survives_in_order(payloads: list[bytes], released: int, segment: int) -> None:
    released = min(released, len(payloads))
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory), segment)
        indices = [spool.append(payload) for payload in payloads]
        assert indices == list(range(1, len(payloads) + 1))
        release(spool, released)
        assert rest(spool) == payloads[released:]
        assert spool.pending_bytes == sum(len(frame(payload)) for payload in payloads[released:])
        spool.close()
        again = Spool(Path(directory), segment)
        assert rest(again) == payloads[released:]
        assert again.end == len(payloads) + 1
        assert again.append(b"more") == len(payloads) + 1
        again.close()


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=10), st.data())
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_costs_only_the_torn_record(payloads: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory))
        for payload in payloads:
            spool.append(payload)
        spool.close()
        (segment,) = Path(directory).glob("*.seg")
        whole = segment.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        segment.write_bytes(whole[:cut])
        ends = [end for _, end in unframe(whole)]
        kept = sum(end <= cut for end in ends)
        again = Spool(Path(directory))
        assert rest(again) == payloads[:kept]
        assert again.append(b"next") == kept + 1
        assert rest(again) == [*payloads[:kept], b"next"]
        again.close()


def test_a_tail_of_zeros_or_rubbish_is_cut_off(tmp_path: Path) -> None:
    for number, tail in enumerate((bytes(64), b"\xff" * 64, frame(b"x" * 20)[:-1] + b"?")):
        spool = Spool(tmp_path / str(number))
        spool.append(b"good")
        spool.close()
        (segment,) = (tmp_path / str(number)).glob("*.seg")
        segment.write_bytes(segment.read_bytes() + tail)
        again = Spool(tmp_path / str(number))
        assert rest(again) == [b"good"]
        assert segment.stat().st_size == len(frame(b"good"))
        again.close()


def test_damage_before_the_tail_skips_to_the_next_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=40)
    for number in range(4):
        spool.append(b"%d" % number * 20)
    spool.close()
    first = min(tmp_path.glob("*.seg"))
    first.write_bytes(b"\xff" * first.stat().st_size)
    again = Spool(tmp_path, segment_bytes=40)
    assert rest(again) == [b"%d" % number * 20 for number in range(1, 4)]
    again.close()


def test_acknowledged_segments_are_deleted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    for _ in range(50):
        spool.append(b"x" * 50)
    assert len(list(tmp_path.glob("*.seg"))) > 10
    release(spool, 50)
    assert len(list(tmp_path.glob("*.seg"))) == 1
    assert sum(path.stat().st_size for path in tmp_path.glob("*.seg")) == 0
    assert spool.pending_bytes == 0
    spool.close()


def test_numbering_follows_the_server_and_survives(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for payload in (b"a", b"b", b"c"):
        spool.append(payload)
    release(spool, 1)
    assert spool.seq(spool.head.index) == 2
    spool.renumber(1)
    assert [spool.seq(index) for index in range(spool.head.index, spool.end)] == [1, 2]
    spool.close()
    again = Spool(tmp_path)
    assert again.seq(again.head.index) == 1
    again.skip_to_seq(10)
    assert again.seq(again.append(b"d")) == 10
    assert rest(again) == [b"b", b"c", b"d"]
    again.close()
    final = Spool(tmp_path)
    assert final.seq(final.end) == 11
    final.close()


def test_skipping_in_an_empty_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.skip_to_seq(7)
    assert not spool.pending
    assert spool.seq(spool.append(b"a")) == 7
    assert rest(spool) == [b"a"]
    spool.close()


def test_a_full_disk_is_reported_and_leaves_no_partial_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.append(b"first")
    import os

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, data[:3], at))
    with pytest.raises(SpoolFull):
        spool.append(b"second")
    monkeypatch.undo()
    assert rest(spool) == [b"first"]
    spool.append(b"third")
    assert rest(spool) == [b"first", b"third"]
    spool.close()


def result(name: str) -> Result:
    return Result(name, "failed", 3, "exit code 3", 1, 2, last_log=5)


async def test_results_survive_until_settled(tmp_path: Path) -> None:
    path = tmp_path / "results"
    store = ResultStore(path)
    for name in ("a", "b", "c"):
        store.put(result(name))
    store.settle("b")
    await store.close()
    path.write_bytes(path.read_bytes() + b"\x05\x00\x00\x00torn")
    again = ResultStore(path)
    assert again.unsettled == {"a": result("a"), "c": result("c")}
    again.settle("a")
    again.put(result("d"))
    await again.close()
    final = ResultStore(path)
    assert list(final.unsettled) == ["c", "d"]
    await final.close()


async def test_an_unsettled_result_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = os.fsync
    store = ResultStore(tmp_path / "results")
    monkeypatch.setattr(os, "fsync", lambda file: (real(file), loop.call_soon_threadsafe(synced.set)))
    store.put(result("settled"))
    store.settle("settled")
    store.put(result("waits"))
    await asyncio.wait_for(synced.wait(), PATIENCE)
    await store.close()


async def test_the_file_of_results_stays_small(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    store.put(result("waits"))
    for number in range(40_000):
        store.put(result(f"{number:030d}"))
        store.settle(f"{number:030d}")
    assert (tmp_path / "results").stat().st_size < 5 << 20
    await store.close()
    again = ResultStore(tmp_path / "results")
    assert list(again.unsettled) == ["waits"]
    await again.close()


TRICKY = st.text(st.sampled_from('",\\{}:[]\n\x00\x1fé😀ab '), max_size=12)


@given(
    st.lists(st.one_of(TRICKY, st.text(st.characters(codec="utf-8"), max_size=8)), min_size=1, max_size=12)
)
@settings(max_examples=300, deadline=None)
def test_encoded_lines_are_the_lines(texts: list[str]) -> None:
    encoded = encode_lines("stderr", texts, 1_763_000_123_999)
    assert encoded.endswith(b"\n")
    logs = [orjson.loads(line) for line in encoded[:-1].split(b"\n")]
    assert logs == [{"content": text, "stream": "stderr", "timestamp": 1_763_000_123} for text in texts]


async def test_batches_are_bounded_in_lines_and_bytes() -> None:
    batches: list[pb.LogBatch] = []
    gathering = LogBatches("s", lambda: str(len(batches)), batches.append)
    gathering.add("stdout", ["x"] * 3500, 0)
    gathering.add("stdout", ["y" * 16_000] * 100, 0)
    gathering.flush()
    assert len({batch.batch_id for batch in batches}) == len(batches)
    unpacked = [zstandard.ZstdDecompressor().decompress(batch.data).splitlines() for batch in batches]
    contents = [[orjson.loads(line)["content"] for line in lines] for lines in unpacked]
    assert list(itertools.chain.from_iterable(contents)) == ["x"] * 3500 + ["y" * 16_000] * 100
    assert max(map(len, contents)) == MAX_LINES
    assert all(sum(map(len, lines[:-1])) < MAX_BYTES for lines in contents)  # over it by one line at most


async def test_a_lone_line_goes_out_at_once_and_many_do_not_each() -> None:
    loop = asyncio.get_running_loop()
    out: asyncio.Queue[tuple[float, pb.LogBatch]] = asyncio.Queue()
    gathering = LogBatches("s", lambda: "id", lambda batch: out.put_nowait((loop.time(), batch)))
    gathering.add("stdout", ["first"], 0)
    at, _ = await asyncio.wait_for(out.get(), PATIENCE)
    for _ in range(200):
        gathering.add("stdout", ["next"], 0)
    later, batch = await asyncio.wait_for(out.get(), PATIENCE)
    assert later - at >= 0.015
    assert batch.compression == pb.LogBatch.COMPRESSION_ZSTD
