"""Messages between the pool and a worker: plain data and bytes, no code (docs/decisions/0012-workers.md).

A frame is a head (kind, number of the job, number of values), a table (for each value whether it is JSON or
bytes, and its length), and the values. Only whole values are bytes: JSON has no bytes inside it, so nothing has to be
searched for or escaped. The peer is not trusted: every length is checked before anything is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

HEAD = struct.Struct(">BQH")
ENTRY = struct.Struct(">BQ")
JSON, BYTES = 0, 1
MAX_VALUES = 64
MAX_JSON = 16 << 20  # bytes of JSON in one frame, since they are decoded at once

JOB, STARTED, DONE, RAISED, OUT_OF_MEMORY, TOO_LARGE, NOT_PLAIN = range(1, 8)

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class FrameError(ValueError):
    """The peer sent an invalid frame, or one that is too large."""


class FrameTooLarge(FrameError):
    """More bytes than are allowed, or too many values."""


@dataclass(frozen=True, slots=True)
class Frame:
    """``values``: JSON data, or bytes."""

    kind: int
    number: int
    values: tuple[Any, ...] = ()


def is_answer(frame: Frame) -> bool:
    """Whether this frame is a valid answer to a job: its result, or an error."""
    if frame.kind == RAISED:
        return len(frame.values) == 2 and all(isinstance(value, str) for value in frame.values)
    return frame.kind in (DONE, OUT_OF_MEMORY, TOO_LARGE, NOT_PLAIN)


def encode(frame: Frame, limit: int) -> list[bytes]:
    """The frame's bytes, as a list, so that large values are not copied.

    ``limit``: bytes of all values. Raises TypeError where a value is neither JSON data nor bytes (integers have
    64 bits, its texts are valid Unicode; NaN and infinities become null), FrameTooLarge.
    """
    payloads = [
        value if isinstance(value, bytes) else orjson.dumps(value, option=_STRICT) for value in frame.values
    ]
    table = [
        (BYTES if isinstance(value, bytes) else JSON, len(payload))
        for value, payload in zip(frame.values, payloads, strict=True)
    ]
    _check(table, limit)
    head = HEAD.pack(frame.kind, frame.number, len(payloads))
    return [head + b"".join(ENTRY.pack(*entry) for entry in table), *payloads]


def _check(table: Sequence[tuple[int, int]], limit: int) -> None:
    if len(table) > MAX_VALUES or sum(length for _, length in table) > limit:
        raise FrameTooLarge(f"more than {limit} bytes, or more than {MAX_VALUES} values")
    if sum(length for kind, length in table if kind == JSON) > MAX_JSON:
        raise FrameTooLarge(f"more than {MAX_JSON} bytes of JSON")


class Decoder:
    """Decodes frames from a byte stream. ``limit``: bytes of the values of one frame."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def next(self) -> Frame | None:
        """The next frame, None while it is incomplete. Raises FrameError; the decoder cannot be used after that."""
        if len(self._buffer) < HEAD.size:
            return None
        kind, number, count = HEAD.unpack_from(self._buffer)
        if count > MAX_VALUES:
            raise FrameTooLarge(f"more than {MAX_VALUES} values")
        start = HEAD.size + count * ENTRY.size
        if len(self._buffer) < start:
            return None
        table = [ENTRY.unpack_from(self._buffer, HEAD.size + i * ENTRY.size) for i in range(count)]
        _check(table, self._limit)
        end = start + sum(length for _, length in table)
        if len(self._buffer) < end:
            return None
        values = []
        for kind_of_value, length in table:
            values.append(_value(kind_of_value, bytes(memoryview(self._buffer)[start : start + length])))
            start += length
        del self._buffer[:end]
        return Frame(kind, number, tuple(values))


def _value(kind: int, payload: bytes) -> Any:
    if kind == BYTES:
        return payload
    if kind != JSON:
        raise FrameError("a value has an unknown kind")
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise FrameError("a value is not JSON") from None
