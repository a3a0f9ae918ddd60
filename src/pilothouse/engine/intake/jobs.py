"""Jobs of the worker pool: what agents push is unpacked, read and masked here, unless that is short work.

Every worker imports this module: it and what it imports know nothing of gRPC and databases. A worker keeps the
automata of the values that it has masked last (decision 10).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import orjson

from pilothouse.engine.intake.batches import BatchInvalid, RawBatch, read_lines
from pilothouse.engine.intake.events import StepEvent, read_event
from pilothouse.engine.intake.joining import Joiner
from pilothouse.engine.intake.lines import LogLines, pack, unpack, without_secrets
from pilothouse.wire.masking import Masker

MAX_KEPT = 2 << 20
"""Characters that the kept maskers look for together, but for the one used last; some 20 bytes of memory each."""
_maskers: OrderedDict[frozenset[str], Masker] = OrderedDict()

Packed = tuple[list[Any], bytes]


def read_job(
    head: list[Any], data: bytes, values: list[str], waiting: list[Any], waiting_text: bytes
) -> tuple[str, list[Any], bytes, list[Any], bytes]:
    """Read and mask one log batch.

    ``head``: the fields of a RawBatch but its data; ``waiting``: what a Joiner holds back, packed. Returns why the
    batch is invalid (empty if it is not), and packed the batches to be stored, masked, and those that wait.
    """
    batch_id, seq, step_run_id, compression, raw_size, ndjson = head
    batch = RawBatch(batch_id, seq, step_run_id, data, compression, raw_size, ndjson)
    try:
        lines = read_lines(batch)
    except BatchInvalid as error:
        return str(error), [], b"", [], b""
    ready, held = join_and_mask(lines, unpack(waiting, waiting_text), _masker(values))
    return "", *pack(ready), *pack(held)


def mask_lines_job(batches: list[Any], text: bytes, values: list[str]) -> Packed:
    """Mask packed batches."""
    masker = _masker(values)
    return pack([without_secrets(one, masker) for one in unpack(batches, text)])


def mask_texts_job(texts: list[str], most: int, values: list[str]) -> list[str]:
    """Mask the beginnings of texts, at most so many characters of each."""
    masker = _masker(values)
    return [masker.mask_start(text, most) for text in texts] if masker is not None else texts


def read_event_job(event: list[Any], payload: bytes, values: list[str]) -> tuple[list[Any], bytes, str]:
    """Read and mask an event: its fields and payload, and why it is refused (empty if it is not)."""
    event_id, seq, step_run_id, type = event
    shown, refused = read_event(
        StepEvent(event_id, seq, step_run_id, type, orjson.loads(payload)), _masker(values)
    )
    return [shown.event_id, seq, step_run_id, shown.type], orjson.dumps(shown.payload), refused


def join_and_mask(
    lines: LogLines, waiting: Sequence[LogLines], masker: Masker | None
) -> tuple[list[LogLines], list[LogLines]]:
    """The batches to be stored, masked, and those that wait. Raises TooDense."""
    joiner = Joiner(waiting)
    ready = [without_secrets(one, masker) for one in joiner.take(lines, masker)]
    return ready, joiner.waiting


def _masker(values: list[str]) -> Masker | None:
    """The masker of these values, kept from an earlier job of this worker or built."""
    if not values:
        return None
    key = frozenset(values)
    found = _maskers.pop(key, None) or Masker(key).complete()
    size = found.size + sum(masker.size for masker in _maskers.values())
    while _maskers and size > MAX_KEPT:
        _, masker = _maskers.popitem(last=False)
        size -= masker.size
    _maskers[key] = found
    return found
