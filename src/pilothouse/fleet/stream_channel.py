"""stream.v1.StreamService/AgentChannel: the second adapter of the agent channel (arcentra-wire.txt, docs/agents.md).

Work is assigned as on ``Connect``: whenever the agent has a free slot, whether it has asked for work or not.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from uuid_utils import uuid7

from pilothouse.edge.grpc import Context
from pilothouse.fleet import messages
from pilothouse.fleet.budgets import Budgets
from pilothouse.fleet.credentials import agent_caller
from pilothouse.fleet.errors import BadMessage
from pilothouse.fleet.listener import Listener
from pilothouse.fleet.open_calls import ENDINGS, GrpcChannel, OpenCalls, number_of
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.storage import Storage
from pilothouse.wire.agent.v1 import agent_pb2 as agent
from pilothouse.wire.stream.v1 import stream_pb2 as pb

CHANNEL = "stream"
"""The name of this channel (:class:`pilothouse.fleet.model.AgentChannel`)."""
MAX_METRICS, MAX_METRIC = 100, 256
"""Custom metrics of a message, and characters of a name or value."""


class StreamChannel(GrpcChannel):
    """One ``AgentChannel`` call."""

    name = CHANNEL

    def handed_out(self, task_id: str, work: agent.StepRun) -> pb.AgentChannelResponse:
        """See :class:`GrpcChannel`."""
        assignment = pb.StepRunAssignment(step_runs=[work])
        return pb.AgentChannelResponse(
            agent_id=self.agent_id, response_id=task_id, step_run_assignment=assignment
        )

    def stopped(self, task_id: str, reason: str) -> pb.AgentChannelResponse:
        """See :class:`GrpcChannel`."""
        command = pb.StepRunCancelCommand(step_run_id=task_id, reason=reason)
        return pb.AgentChannelResponse(
            agent_id=self.agent_id, response_id=f"cancel-{task_id}", step_run_cancel_command=command
        )

    def answer(self, request_id: str, **payload: Any) -> None:
        """Answer a message of the agent."""
        id = request_id or str(uuid7())
        self.put(pb.AgentChannelResponse(agent_id=self.agent_id, response_id=id, **payload))


class StreamListener(Listener):
    """What an agent says on ``AgentChannel``. Its first message is answered with what it is expected to keep to."""

    def __init__(
        self, fleet: Fleet, storage: Storage, budgets: Budgets, channel: StreamChannel, slots: int
    ) -> None:
        super().__init__(fleet, storage, budgets, channel, slots)
        self._answers = channel
        self._greeted = False
        self._config = pb.ConfigUpdate(
            heartbeat_interval=int(fleet.settings.heartbeat * 1000), max_concurrent_step_runs=slots
        )

    async def take(self, request: pb.AgentChannelRequest) -> None:
        """See :class:`Listener`. Raises :class:`BadMessage`."""
        if not self._greeted:
            self._greeted = True
            self._answers.answer("", config_update=self._config)
        kind = request.WhichOneof("payload")
        request_id = messages.task_id(request.request_id)
        if kind == "heartbeat":
            self.beat(request.heartbeat)
            ack = pb.HeartbeatAck(server_time=int(time.time()), success=True)
            self._answers.answer(request_id, heartbeat_ack=ack)
        elif kind == "step_run_status":
            self.before_report()
            await self.report(request.step_run_status)
        elif kind == "step_run_fetch":
            messages.check_asked(request.step_run_fetch.max_step_runs)
            # What can be assigned is on its way already; this says that nothing more is waiting for the agent.
            self._answers.answer(request_id, step_run_assignment=pb.StepRunAssignment())
        elif kind == "metrics":
            _check_metrics(request.metrics)


class AgentChannels:
    """Serves ``AgentChannel``."""

    def __init__(self, fleet: Fleet, identity: Identity, storage: Storage, budgets: Budgets) -> None:
        self._fleet = fleet
        self._identity = identity
        self._storage = storage
        self._budgets = budgets
        self._calls = OpenCalls(fleet)
        self._arrivals = itertools.count(1)

    async def serve(
        self, requests: AsyncIterator[pb.AgentChannelRequest], context: Context
    ) -> AsyncIterator[pb.AgentChannelResponse]:
        """Work and cancels out; heartbeats, statuses, requests for work and metrics in."""
        arrived = next(self._arrivals)
        agent_id = (await agent_caller(context, self._identity)).id
        channel = StreamChannel(agent_id, number_of(context), arrived, self._fleet.encoders(CHANNEL))
        if overtaken := channel.overtaken_by(self._fleet.hub.channel(agent_id, CHANNEL)):
            raise ENDINGS[overtaken]()
        known = await self._calls.attach(channel)
        listener = StreamListener(self._fleet, self._storage, self._budgets, channel, known.profile.slots)
        async with aclosing(self._calls.held_open(channel, listener.listen(requests))) as commands:
            async for command in commands:
                yield command


def _check_metrics(metrics: pb.AgentMetrics) -> None:
    custom = metrics.custom_metrics
    if len(custom) > MAX_METRICS or any(len(word) > MAX_METRIC for pair in custom.items() for word in pair):
        raise BadMessage(f"custom_metrics has at most {MAX_METRICS} entries of {MAX_METRIC} characters")
    if not all(map(math.isfinite, (metrics.cpu_usage, metrics.memory_usage, metrics.disk_usage))):
        raise BadMessage("a usage is a finite number")
