"""Reads and masks what agents push: short work on the event loop, all other work in the worker pool.

Work is short if it takes at most some 5 ms whatever the input (decision 10): a batch as our own agent sends them, few
secrets, few occurrences of them. Work in the pool has the bounds of :mod:`pilothouse.workers` for each agent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

import orjson

from pilothouse.engine.intake.batches import BatchInvalid, Bounds, OverBounds, RawBatch, read_lines
from pilothouse.engine.intake.events import StepEvent, read_event
from pilothouse.engine.intake.jobs import (
    join_and_mask,
    mask_lines_job,
    mask_texts_job,
    read_event_job,
    read_job,
)
from pilothouse.engine.intake.lines import LogLines, pack, unpack, without_secrets
from pilothouse.engine.intake.maskers import FEW, Maskers, short
from pilothouse.wire.masking import Masker, TooDense
from pilothouse.workers.errors import JobRaised, OutOfMemory, TimedOut, TooLarge
from pilothouse.workers.limits import MIB, Limits
from pilothouse.workers.pool import Pool

JOBS = (read_job, mask_lines_job, mask_texts_job, read_event_job)

SHORT = Bounds(raw=384 << 10, frames=8, lines=2000)
"""A batch that is read on the event loop."""
SHORT_TEXT = 16 << 10
"""Characters of other texts that are masked on the event loop, and bytes of an event."""
LIMITS = Limits(cpu=20, wall=40, memory=768 * MIB, result=64 * MIB)
"""Of one batch or event. The costliest legal ones take some 20 s of CPU time (decision 10)."""

Values = frozenset[str]
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class TooCostly(BatchInvalid):
    """Reading or masking a batch or event takes more than a job may use: it would never be accepted."""


class Reading:
    """Methods raise WorkError where the pool has no place or time now: to be tried again by the agent."""

    def __init__(self, pool: Pool, maskers: Maskers) -> None:
        self._pool = pool
        self._maskers = maskers

    async def batch(
        self, agent_id: str, batch: RawBatch, values: Values, waiting: Sequence[LogLines]
    ) -> tuple[list[LogLines], list[LogLines]]:
        """The batches to be stored now, masked, and those that wait for the next batch of the same step.

        ``waiting``: what waited until now, of this batch's step. Raises :class:`BatchInvalid`.
        """
        if short(values) and len(batch.data) + _size(waiting) <= SHORT.raw:
            try:
                return join_and_mask(read_lines(batch, SHORT), waiting, self._masker(values))
            except (OverBounds, TooDense):
                pass  # a worker says whether it is too large
        head = [
            batch.batch_id,
            batch.seq,
            batch.step_run_id,
            batch.compression,
            batch.raw_size,
            batch.ndjson,
        ]
        invalid, ready, ready_text, held, held_text = await self._run(
            agent_id, read_job, head, batch.data, sorted(values), *pack(waiting)
        )
        if invalid:
            raise BatchInvalid(invalid)
        return unpack(ready, ready_text), unpack(held, held_text)

    async def masked(self, agent_id: str, batches: Sequence[LogLines], values: Values) -> list[LogLines]:
        """Batches as they may be stored. Raises :class:`TooCostly`."""
        if short(values) and _size(batches) <= SHORT.raw:
            try:
                return [without_secrets(one, self._masker(values)) for one in batches]
            except TooDense:
                pass
        heads, text = await self._run(agent_id, mask_lines_job, *pack(batches), sorted(values))
        return unpack(heads, text)

    async def texts(self, agent_id: str, texts: Sequence[str], most: int, values: Values) -> list[str]:
        """The beginnings of texts, at most so many characters of each, masked. Raises :class:`TooCostly`."""
        masker = self._masker(values) if short(values) else None
        if not values or (masker is not None and most * len(texts) <= SHORT_TEXT):
            try:
                return [text[:most] if masker is None else masker.mask_start(text, most) for text in texts]
            except TooDense:
                pass
        # Much longer texts are not sent to the worker. A secret that begins after the bound is not shown.
        some = [text[: most + 1] for text in texts]
        return await self._run(agent_id, mask_texts_job, some, most, sorted(values))

    async def event(self, agent_id: str, event: StepEvent, values: Values) -> tuple[StepEvent, str]:
        """An event, read and masked, and why it is refused. Raises :class:`TooCostly`."""
        payload = orjson.dumps(event.payload)
        if short(values) and len(payload) <= SHORT_TEXT:
            try:
                return read_event(event, self._masker(values))
            except TooDense:
                pass
        head = [event.event_id, event.seq, event.step_run_id, event.type]
        (event_id, _, _, type), shown, refused = await self._run(
            agent_id, read_event_job, head, payload, sorted(values)
        )
        return replace(event, event_id=event_id, type=type, payload=orjson.loads(shown)), refused

    def _masker(self, values: Values) -> Masker | None:
        return self._maskers.of(values).bounded(FEW) if values else None

    async def _run(self, agent_id: str, job: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        try:
            return await self._pool.run(job, *args, caller=f"agent/{agent_id}", limits=LIMITS)
        except (TimedOut, TooLarge, JobRaised) as error:
            raise TooCostly(f"it cannot be read and masked: {error}") from error
        except OutOfMemory as error:
            if error.limit == "job":
                raise TooCostly(f"it cannot be read and masked: {error}") from error
            raise


def _size(batches: Sequence[LogLines]) -> int:
    return sum(sum(map(len, one.lines)) + len(one.lines) for one in batches)
