"""The log lines of one batch, and what is done with them before they are stored; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pilothouse.wire.masking import Masker

MAX_LEVEL = 16
"""Characters of a level."""
MAX_LINE = 32 << 10
"""Characters of a line that are kept; our own agent cuts earlier."""


@dataclass(frozen=True, slots=True)
class LogLines:
    """The lines of one batch, all of one attempt; ``stderr`` and ``levels`` are sparse, by index.

    ``open_end``: the data did not end with a newline. ``masked``: secrets are already masked.
    """

    batch_id: str
    seq: int
    step_run_id: str
    lines: list[str]
    stderr: list[int] = field(default_factory=list)
    levels: dict[int, str] = field(default_factory=dict)
    plugin: str = ""
    open_end: bool = False
    masked: bool = False


def without_secrets(batch: LogLines, masker: Masker | None) -> LogLines:
    """The batch as it may be stored: secrets masked, long lines and levels cut. Raises TooDense."""
    lines, levels = batch.lines, batch.levels
    if masker is not None:
        # Masking never replaces a newline, so the number of lines does not change.
        lines = masker.mask("\n".join(lines)).split("\n") if lines else lines
        shown = {level: masker.mask(level) for level in set(levels.values())}
        levels = {at: shown[level] for at, level in levels.items()}
    levels = {at: level[:MAX_LEVEL] for at, level in levels.items()}
    return replace(batch, lines=[_cut(line) for line in lines], levels=levels, masked=True)


def _cut(line: str) -> str:
    if len(line) <= MAX_LINE:
        return line
    return f"{line[:MAX_LINE]} … [line cut: {len(line) - MAX_LINE} characters dropped]"


def pack(batches: Sequence[LogLines]) -> tuple[list[Any], bytes]:
    """Batches as a worker gets and returns them: JSON data, and the text of all lines."""
    heads: list[Any] = []
    for one in batches:
        levels = [list(one.levels), list(one.levels.values())]
        names = [one.batch_id, one.seq, one.step_run_id, one.plugin, one.open_end, one.masked]
        heads.append([names, len(one.lines), one.stderr, levels])
    text = "\n".join([line for one in batches for line in one.lines])
    return heads, text.encode()


def unpack(heads: Sequence[Any], text: bytes) -> list[LogLines]:
    """The batches that :func:`pack` was given."""
    lines = text.decode().split("\n")
    found: list[LogLines] = []
    start = 0
    for (batch_id, seq, step_run_id, plugin, open_end, masked), count, stderr, levels in heads:
        own = lines[start : start + count]
        start += count
        at_level = dict(zip(*levels, strict=True))
        found.append(LogLines(batch_id, seq, step_run_id, own, stderr, at_level, plugin, open_end, masked))
    return found
