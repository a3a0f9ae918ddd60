"""Writes the log lines and events of one attempt to the outbox (`StepReporter` of executors/base.py)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.agent.executors.base import Stream, race
from pilothouse.agent.log_batches import LogBatches
from pilothouse.agent.outbox import Outbox
from pilothouse.wire import outputs
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb

OUTPUT = "arcentra.step.output"
PROGRESS = "arcentra.step.progress"
REPORT = "arcentra.step.report"
PROGRESS_EVERY = 0.2  # seconds
MAX_MESSAGE = 1000  # characters


class SpoolReporter:
    """`last_log` and `last_event` are the indices of its last records in the outbox, -1 for none."""

    def __init__(self, step_run_id: str, outbox: Outbox, cancel: asyncio.Event) -> None:
        self._step_run_id = step_run_id
        self._outbox = outbox
        self._cancel = cancel
        self._batches = LogBatches(step_run_id, outbox.new_id, self._store)
        self.last_log = -1
        self.last_event = -1
        self._progress: dict[str, Any] | None = None  # the latest, while it is delayed by the rate limit
        self._progress_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        self._batches.add(stream, texts, at_ms)

    def output(self, name: str, value: Any) -> None:
        self._event(OUTPUT, {"name": name, "json": outputs.write_json(value)})

    def tests(self, name: str, report: Mapping[str, Any]) -> None:
        text = json.dumps(report, ensure_ascii=False)
        text = text.encode("utf-8", "replace").decode()  # names of tests may have unpaired surrogates
        self._event(REPORT, {"kind": "junit", "name": name, "json": text})

    def progress(self, percent: int, message: str) -> None:
        self._progress = {"percent": percent, "message": message[:MAX_MESSAGE]}
        loop = asyncio.get_running_loop()
        wait = self._progress_at + PROGRESS_EVERY - loop.time()
        if wait <= 0:
            self._send_progress()
        elif self._timer is None:
            self._timer = loop.call_later(wait, self._send_progress)

    async def drain(self) -> None:
        """Wait while the outbox is full, but not once the step is cancelled: it must end and writes little."""
        if not self._outbox.full or self._cancel.is_set():
            return
        room = asyncio.ensure_future(self._outbox.room())
        try:
            await race(room, self._cancel, None)
        finally:
            room.cancel()

    def close(self) -> None:
        """End of the attempt: move all buffered lines and events to the outbox."""
        self._batches.flush()
        self._send_progress()

    def _store(self, batch: pb.LogBatch) -> None:
        self.last_log = self._outbox.logs.append(batch.SerializeToString())

    def _send_progress(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._progress is not None:
            self._event(PROGRESS, self._progress)
            self._progress = None
            self._progress_at = asyncio.get_running_loop().time()

    def _event(self, event_type: str, payload: dict[str, Any]) -> None:
        event = pb.Event(event_id=self._outbox.new_id(), event_type=event_type)
        event.meta.step_id = self._step_run_id
        event.meta.timestamp.GetCurrentTime()
        event.payload.update(payload)
        self.last_event = self._outbox.events.append(event.SerializeToString())
