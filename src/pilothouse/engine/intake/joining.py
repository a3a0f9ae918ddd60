"""Joins batches so that a secret that an agent split between two of them can be masked; pure.

By contract, a batch whose last line has no newline ends with a complete line. Only if that line may be the beginning
of a secret, the batch is held back until the next batch of the same call, and both are masked together. Batches held
back are not stored yet: after a crash the agent sends them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pilothouse.engine.intake.lines import LogLines
from pilothouse.wire.masking import Masker

MAX_WAITING = 64 << 10
"""Characters of a line that waits: it is looked at again with each piece."""


MAX_PIECES = 32
"""Batches that wait; the line that more of them continue is one line."""


class Joiner:
    """The batches held back: one with an open end, and those that only continue its last line."""

    def __init__(self, waiting: Iterable[LogLines] = ()) -> None:
        self.waiting = list(waiting)

    def take(self, batch: LogLines, masker: Masker | None) -> list[LogLines]:
        """Add the next batch of a call; returns the batches to store now, in order. Raises TooDense.

        ``masker``: of the batch's step, which is also that of the batches that wait if their step is the same.
        """
        if self.waiting and masker is not None and self._continues(batch):
            return self._continue(batch, masker)
        ready = [*self.rest(), batch]
        if masker is not None and batch.open_end and batch.lines and _may_begin(batch.lines[-1], masker):
            self.waiting = [ready.pop()]
        return ready

    def rest(self) -> list[LogLines]:
        """End of the call: the batches held back, which must be stored now."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def _continues(self, batch: LogLines) -> bool:
        return bool(batch.lines) and batch.step_run_id == self.waiting[0].step_run_id

    def _continue(self, batch: LogLines, masker: Masker) -> list[LogLines]:
        pieces = [one.lines[-1] for one in self.waiting] + [batch.lines[0]]
        full = len(pieces) > MAX_PIECES
        if full or masker.mask("".join(pieces)) != "".join(map(masker.mask, pieces)):
            # The joined line is part of the last batch: earlier batches may already be stored by an interrupted call
            # and then have no effect here.
            before = [_without_last(one) for one in self.rest()]
            whole = replace(batch, lines=["".join(pieces), *batch.lines[1:]])
            return [*before, *self.take(whole, masker)]
        if batch.open_end and len(batch.lines) == 1 and _may_begin("".join(pieces), masker):
            self.waiting.append(batch)
            return []
        return [*self.rest(), *self.take(batch, masker)]


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
