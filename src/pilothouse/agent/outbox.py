"""The queues of log batches and events to be sent, each with a spool and a pusher."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

from pilothouse.agent.pusher import Pusher, Uplink
from pilothouse.agent.spool import SEGMENT_BYTES, Spool
from pilothouse.agent.wires import EventWire, LogWire
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb


class Outbox:
    """`limit`: bytes on disk above which steps are throttled. Nothing is discarded."""

    def __init__(self, directory: Path, link: Uplink, limit: int) -> None:
        segment = min(SEGMENT_BYTES, max(1, limit // 8))
        self._freed = asyncio.Event()
        self._limit = limit
        self._spools = Spool(directory / "logs", segment), Spool(directory / "events", segment)
        self.logs: Pusher[pb.PushLogsRequest] = Pusher(self._spools[0], LogWire(), link, self._freed)
        self.events: Pusher[pb.PushEventsRequest] = Pusher(self._spools[1], EventWire(), link, self._freed)
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        """A globally unique id for a batch or an event."""
        return f"{self._prefix}-{next(self._numbers)}"

    @property
    def full(self) -> bool:
        size = self.logs.pending_bytes + self.events.pending_bytes
        return size >= self._limit or self.logs.blocked or self.events.blocked

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.full:
            self.logs.hurry()
            self.events.hurry()
            self._freed.clear()
            await self._freed.wait()

    def close(self) -> None:
        for spool in self._spools:
            spool.close()
