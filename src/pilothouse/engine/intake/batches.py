"""Reads a pushed log batch into lines: decompressed, decoded, divided, all within bounds; pure.

What a batch may become is bounded before it is produced: compressed frames are counted as they begin, a frame is
decompressed in pieces until the bound of the bytes, newlines are counted before a text is divided at them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import orjson
import zstandard

from pilothouse.engine.intake.lines import LogLines

MAX_RAW = 8 << 20
"""A batch unpacks to at most this many bytes."""
MAX_PACKED = MAX_RAW + (64 << 10)
"""Bytes of a batch as it is sent; what cannot be compressed becomes a little longer."""
MAX_FRAMES = 1000
"""Frames (zstd) or members (gzip) of one batch."""
MAX_LINES = 20_000
"""Lines of one batch."""
MAX_ID = 256
"""Characters of the id of a batch or an event, of an event's type, and of the id of a step run."""
MAX_LEVEL_SENT = 256
"""Characters of a level as it is sent; fewer are shown."""

PLAIN, GZIP, ZSTD = "", "gzip", "zstd"
_ZSTD_PIECE = 128  # bytes of input, which become at most 4 MiB of output
_GZIP_PIECE = 4 << 10


class BatchInvalid(Exception):
    """A batch that cannot be decoded; does not affect other batches of the call."""


class OverBounds(BatchInvalid):
    """The batch is larger than the bounds with which it was read."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """``raw``: bytes after decompression; ``frames``: compressed frames; ``lines``: lines."""

    raw: int = MAX_RAW
    frames: int = MAX_FRAMES
    lines: int = MAX_LINES


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A batch as it was pushed. ``compression``: PLAIN, GZIP, ZSTD, or what the agent calls another."""

    batch_id: str
    seq: int
    step_run_id: str
    data: bytes
    compression: str = PLAIN
    raw_size: int = 0
    ndjson: bool = False


LARGEST = Bounds()


def read_lines(batch: RawBatch, bounds: Bounds = LARGEST) -> LogLines:
    """The lines of a batch. Raises :class:`BatchInvalid`, of which :class:`OverBounds`."""
    data = _unpack(batch, bounds)
    _check_count(data.count(b"\n"), bounds)
    text = data.decode("utf-8", errors="replace").replace("\x00", "\ufffd")
    lines = text.split("\n")
    open_end = lines[-1] != ""
    if not open_end:
        lines.pop()
    if batch.ndjson:
        found = LogLines(batch.batch_id, batch.seq, batch.step_run_id, [])
        _read_logs(lines, found, bounds)
        return found
    plain = [line.removesuffix("\r") for line in lines] if "\r" in text else lines
    return LogLines(batch.batch_id, batch.seq, batch.step_run_id, plain, open_end=open_end)


def _check_count(lines: int, bounds: Bounds) -> None:
    if lines > bounds.lines:
        raise OverBounds(f"the batch has more than {bounds.lines} lines")


def _read_logs(lines: list[str], into: LogLines, bounds: Bounds) -> None:
    texts, loads = into.lines, orjson.loads
    for line in lines:
        try:
            log = loads(line)
            content, stream, level = log.get("content", ""), log.get("stream"), log.get("level")
        except (orjson.JSONDecodeError, AttributeError) as error:
            raise BatchInvalid("with pilot-log-format: ndjson every line is one JSON object") from error
        if not isinstance(content, str):
            raise BatchInvalid("the content of a Log object is a text")
        first = len(texts)
        if "\n" in content:
            _check_count(first + content.count("\n") + 1, bounds)
            texts += content.split("\n")
        else:
            texts.append(content)
        if stream == "stderr":
            into.stderr.extend(range(first, len(texts)))
        if level and level != "info":
            into.levels.update(dict.fromkeys(range(first, len(texts)), _level(level)))
    _check_count(len(texts), bounds)
    if "\x00" in "".join(texts):
        texts[:] = [text.replace("\x00", "\ufffd") for text in texts]


def _level(level: Any) -> str:
    if not isinstance(level, str) or len(level) > MAX_LEVEL_SENT:
        raise BatchInvalid(f"the level of a Log object is a text of at most {MAX_LEVEL_SENT} characters")
    return level.replace("\x00", "\ufffd")


def _unpack(batch: RawBatch, bounds: Bounds) -> bytes:
    data, declared = batch.data, batch.raw_size
    most = min(bounds.raw, declared) if declared else bounds.raw
    if len(data) > MAX_PACKED:
        raise OverBounds(f"the batch has more than {MAX_PACKED} bytes")
    if declared > bounds.raw:
        raise OverBounds(f"the batch unpacks to more than {bounds.raw} bytes")
    try:
        if batch.compression == GZIP:
            data = _unpack_gzip(data, most, bounds.frames)
        elif batch.compression == ZSTD:
            data = _unpack_zstd(data, most, bounds.frames)
        elif batch.compression != PLAIN:
            raise BatchInvalid(f"compression {batch.compression} is not known")
    except (zlib.error, zstandard.ZstdError) as error:
        raise BatchInvalid(f"the batch cannot be unpacked: {error}") from error
    if len(data) > bounds.raw:
        raise OverBounds(f"the batch unpacks to more than {bounds.raw} bytes")
    if declared and declared != len(data):
        has = f"has more than {declared}" if len(data) > declared else f"has {len(data)}"
        raise BatchInvalid(f"raw_size is {declared}, but the batch {has} bytes")
    return data


def _unpack_gzip(data: bytes, most: int, frames: int) -> bytes:
    """At most ``most`` bytes, and one more if there are more."""
    view, used, found, count = memoryview(data), 0, bytearray(), 0
    while used < len(data) or not count:
        count = _counted(count, frames)
        unpacker = zlib.decompressobj(wbits=31)
        while not unpacker.eof:
            piece = view[used : used + _GZIP_PIECE]
            if not piece:
                raise BatchInvalid("the batch cannot be unpacked: it is cut off")
            used += len(piece)
            found += unpacker.decompress(piece, most + 1 - len(found))
            if len(found) > most:
                return bytes(found)
        used -= len(unpacker.unused_data)  # of one piece: nothing else is copied for a member
    return bytes(found)


def _unpack_zstd(data: bytes, most: int, frames: int) -> bytes:
    """At most ``most`` bytes, and those of one piece more if there are more."""
    view, used, found, count = memoryview(data), 0, bytearray(), 0
    context = zstandard.ZstdDecompressor(max_window_size=MAX_RAW)
    while used < len(data):
        count = _counted(count, frames)
        unpacker = context.decompressobj()
        while not unpacker.eof:
            piece = view[used : used + _ZSTD_PIECE]
            if not piece:
                raise BatchInvalid("the batch cannot be unpacked: it is cut off")
            used += len(piece)
            found += unpacker.decompress(piece)
            if len(found) > most:
                return bytes(found)
        used -= len(unpacker.unused_data)  # of one piece: nothing else is copied for a frame
    return bytes(found)


def _counted(frames: int, most: int) -> int:
    if frames >= most:
        raise OverBounds(f"the batch has more than {most} compressed frames")
    return frames + 1
