"""What an agent says on a call that it keeps open (arcentra-wire.txt), as use cases of the fleet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from pilothouse.fleet import messages
from pilothouse.fleet.beats import MAX_GAP, Beat, Beats
from pilothouse.fleet.budgets import Budgets
from pilothouse.fleet.errors import WrongAgent
from pilothouse.fleet.model import AgentChannel, Condition, Verdict
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage, Tx
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.stream.v1.stream_pb2 import HeartbeatData, StepRunStatusUpdate

MAX_UNDER_WAY = 256
"""How many messages of one agent may wait for their commit before more are read."""


class Listener:
    """The messages of one connection, processed in order; those that arrive together share a commit."""

    def __init__(
        self, fleet: Fleet, storage: Storage, budgets: Budgets, channel: AgentChannel, slots: int
    ) -> None:
        self._fleet = fleet
        self._storage = storage
        self._budgets = budgets
        self._channel = channel
        self._slots = slots
        self._first = True
        self._under_way: deque[asyncio.Future[Any]] = deque()
        self._described: tuple[Condition, Condition] | None = None
        self._conditions = 0
        self._beats = Beats(self._write_beat, min(MAX_GAP, fleet.settings.heartbeat / 4))

    async def listen(self, requests: AsyncIterator[Any]) -> None:
        """Until the agent closes its side. Raises refusals of what it says, and :class:`StorageError`."""
        agent_id = self._channel.agent_id
        try:
            async for request in requests:
                if request.agent_id and request.agent_id != agent_id:
                    raise WrongAgent(agent_id)
                await self.take(request)
                await self._settle(MAX_UNDER_WAY)
            self._beats.flush()
            await self._settle(0)
        finally:
            self._beats.close()

    async def take(self, request: Any) -> None:
        """Process one message of the agent."""
        kind = request.WhichOneof("payload")
        if kind == "heartbeat":
            self.beat(request.heartbeat)
        elif kind is not None:
            self.before_report()
            if kind == "task_ack":
                await self._acknowledge(request.task_ack)
            else:
                await self.report(request.task_status)

    def beat(self, message: pb.ConnectHeartbeat | HeartbeatData) -> None:
        """A heartbeat."""
        if self._channel.closed_for:
            return  # its list of tasks may be older than that of the connection that replaced it
        self._fleet.arrivals.heard(self._channel.agent_id)
        self._beats.offer(messages.beat(message, self._slots, first=self._first))
        self._first = False

    def before_report(self) -> None:
        """A message follows whose place behind the heartbeats counts. Raises :class:`RateLimited`."""
        self._budgets.check_reports(self._channel.agent_id)
        self._beats.flush()

    async def report(self, message: pb.TaskStatus | StepRunStatusUpdate) -> None:
        """The status of a task."""
        fleet, agent_id = self._fleet, self._channel.agent_id
        report = messages.report(message)
        if report is None or not report.task_id:
            self._budgets.stale(agent_id)
        else:
            shown = await fleet.screened(agent_id, report)
            self._submit(lambda tx: fleet.report(tx, agent_id, shown))

    async def _acknowledge(self, ack: pb.TaskAck) -> None:
        fleet, agent_id = self._fleet, self._channel.agent_id
        command = messages.task_id(ack.command_id)
        if not command:
            self._budgets.stale(agent_id)
        elif ack.status == pb.ACK_STATUS_FAILED:
            said = await fleet.screened_text(agent_id, command, messages.text(ack.message))
            self._submit(lambda tx: fleet.refused(tx, agent_id, command, said))
        else:
            self._submit(lambda tx: fleet.acknowledged(tx, agent_id, command))

    def _write_beat(self, beat: Beat) -> asyncio.Future[None]:
        channel, condition = self._channel, self._known(beat.condition)
        self._conditions += 1

        def use_case(tx: Tx) -> None:
            self._fleet.heartbeat(
                tx,
                channel.agent_id,
                beat.holds,
                first=beat.first,
                condition=condition,
                kinds=channel.kinds,
            )

        written = self._submit(use_case)
        if condition is None:
            # Later than the heartbeat: masking takes a while, and messages that follow must not overtake that.
            self._under_way.append(asyncio.ensure_future(self._describe(beat.condition, self._conditions)))
        return written

    def _known(self, said: Condition) -> Condition | None:
        """The condition as it may be stored, if that needs no masking or was just done."""
        if not said.problems:
            return said
        return self._described[1] if self._described is not None and self._described[0] == said else None

    async def _describe(self, said: Condition, number: int) -> None:
        shown = await self._fleet.screened_condition(self._channel.agent_id, said)
        if number == self._conditions:  # otherwise a later heartbeat has said something else
            self._described = (said, shown)
            await self._storage.write(lambda tx: self._fleet.described(tx, self._channel.agent_id, shown))

    def _submit(self, use_case: Any) -> asyncio.Future[Any]:
        written = self._storage.submit(use_case)
        self._under_way.append(written)
        return written

    async def _settle(self, most: int) -> None:
        """Wait until at most so many messages are under way."""
        while self._under_way and (self._under_way[0].done() or len(self._under_way) > most):
            first = self._under_way.popleft()
            if first.done():
                result = first.result()
            else:
                with self._fleet.arrivals.not_reading(self._channel.agent_id):
                    result = await asyncio.shield(first)
            if result is Verdict.STALE:
                self._budgets.stale(self._channel.agent_id)
