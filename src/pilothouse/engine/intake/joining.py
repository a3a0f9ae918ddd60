"""Joins batches so that a secret that an agent split between two of them can be masked; pure.

By contract, a batch whose last line has no newline ends with a complete line. Only if that line may be the beginning
of a secret, the batch is held back until the next batch of the same call, and both are masked together. Batches held
back are not stored yet: after a crash the agent sends them again.
"""

from __future__ import annotations

from dataclasses import replace

from pilothouse.engine.intake.ingest import LogLines
from pilothouse.wire.masking import Masker

MAX_WAITING = 64 << 10
"""Characters of a line that waits: it is looked at again with each piece."""


class Joiner:
    """The batches held back: one with an open end, and those that only continue its last line."""

    def __init__(self) -> None:
        self._waiting: list[LogLines] = []
        self._masker: Masker | None = None

    def take(self, batch: LogLines, masker: Masker | None) -> list[LogLines]:
        """Add the next batch of a call; returns the batches to store now, in order."""
        if self._waiting and batch.lines and batch.step_run_id == self._waiting[0].step_run_id:
            return self._continue(batch)
        ready = [*self.rest(), batch]
        if masker is not None and batch.open_end and batch.lines and _may_begin(batch.lines[-1], masker):
            self._waiting, self._masker = [ready.pop()], masker
        return ready

    def rest(self) -> list[LogLines]:
        """End of the call: the batches held back, which must be stored now."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _continue(self, batch: LogLines) -> list[LogLines]:
        assert self._masker is not None
        pieces = [one.lines[-1] for one in self._waiting] + [batch.lines[0]]
        if self._masker.mask("".join(pieces)) != "".join(map(self._masker.mask, pieces)):
            # The joined line is part of the last batch: earlier batches may already be stored by an interrupted call
            # and then have no effect here.
            before = [_without_last(one) for one in self.rest()]
            whole = replace(batch, lines=["".join(pieces), *batch.lines[1:]])
            return [*before, *self.take(whole, self._masker)]
        if batch.open_end and len(batch.lines) == 1 and _may_begin("".join(pieces), self._masker):
            self._waiting.append(batch)
            return []
        return [*self.rest(), *self.take(batch, self._masker)]


def _may_begin(line: str, masker: Masker) -> bool:
    return len(line) <= MAX_WAITING and masker.begins(line)


def _without_last(batch: LogLines) -> LogLines:
    last = len(batch.lines) - 1
    return replace(
        batch,
        lines=batch.lines[:-1],
        stderr=[index for index in batch.stderr if index < last],
        levels={index: level for index, level in batch.levels.items() if index < last},
    )
