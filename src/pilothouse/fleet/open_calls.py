"""Calls that an agent keeps open, and over which it gets its work: ``Connect`` and ``AgentChannel``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

import grpc
import structlog
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.edge.grpc import Context, metadata
from pilothouse.fleet import messages
from pilothouse.fleet.errors import AgentNotFound, BadCredential, Overtaken, Replaced
from pilothouse.fleet.handlers import Encoder
from pilothouse.fleet.model import Agent, AgentChannel, Task
from pilothouse.fleet.service import Fleet
from pilothouse.storage import StorageError
from pilothouse.wire.agent.v1 import agent_pb2 as pb

log = structlog.get_logger("fleet.grpc")

CONNECT = "grpc"
"""The name of the channel ``Connect``."""
CONNECTION = "pilot-connection"
"""Call metadata with an agent's number for a connection: the higher is the newer, in whatever order they arrive."""
EMPTY: Mapping[str, Encoder] = MappingProxyType({})
MAX_COMMANDS = 10_000

ENDINGS: Mapping[str, Callable[[], Refusal]] = {
    "replaced": Replaced,
    "overtaken": Overtaken,
    "going away": lambda: Refusal.of("SERVER_STOPPING", "this connection is going away: reconnect"),
    "unregistered": lambda: BadCredential("this connection is unregistered"),
}


class GrpcChannel:
    """One ``Connect`` call, or another of its kind. Commands wait in a queue until they are sent.

    ``number``: the agent's own number for the connection, 0 if it does not number them; ``arrived``: our number for
    the call; ``encoders``: by kind of work, what makes a ``StepRun`` of a task.
    """

    name = CONNECT

    def __init__(
        self, agent_id: str, number: int = 0, arrived: int = 0, encoders: Mapping[str, Encoder] = EMPTY
    ) -> None:
        self.agent_id = agent_id
        self.kinds = frozenset(encoders)
        self._encoders = encoders
        self.connection_id = str(uuid7())
        self.number = number
        self.arrived = arrived
        self.commands: asyncio.Queue[Any] = asyncio.Queue(MAX_COMMANDS)
        self.closed_for = ""

    def dispatch(self, task: Task) -> None:
        """Send work."""
        self.put(self.handed_out(task.id, self._encoders[task.kind](task)))

    def cancel(self, task_id: str, reason: str) -> None:
        """Tell the agent to stop a task."""
        self.put(self.stopped(task_id, reason))

    def close(self, reason: str) -> None:
        """End the call once the commands before this have gone out."""
        self.closed_for = reason
        self.put(None)

    def overtaken_by(self, other: AgentChannel | None) -> str:
        """Why the other is the newer connection of this agent; empty if it is not.

        A call may be delayed, in the network or while its credential is looked up, until after its successor: then
        it must not replace that.
        """
        if not isinstance(other, GrpcChannel) or other.name != self.name or other.closed_for:
            return ""
        if self.number and other.number:
            return "overtaken" if self.number < other.number else ""
        return "replaced" if self.arrived < other.arrived else ""

    def handed_out(self, task_id: str, work: pb.StepRun) -> Any:
        """The command that hands out work."""
        return messages.dispatch(self.agent_id, task_id, work)

    def stopped(self, task_id: str, reason: str) -> Any:
        """The command that stops a task."""
        return messages.cancel(self.agent_id, task_id, reason)

    def put(self, command: Any) -> None:
        """Send a command; ``None`` after the last."""
        try:
            self.commands.put_nowait(command)
        except asyncio.QueueFull:
            log.warning("fleet.agent_not_reading", agent_id=self.agent_id, commands=MAX_COMMANDS)
            self.closed_for = "the agent does not read its commands"


class OpenCalls:
    """Serves such calls."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def attach(self, channel: GrpcChannel) -> Agent:
        """The call begins. Raises :class:`BadCredential` for an agent that was removed in this moment."""
        try:
            agent = await self._fleet.attach(channel)
        except AgentNotFound as error:
            raise BadCredential(str(error)) from None
        log.info("fleet.agent_connected", agent_id=channel.agent_id, connection_id=channel.connection_id)
        return agent

    async def held_open(
        self, channel: GrpcChannel, listening_to: Coroutine[Any, Any, None]
    ) -> AsyncGenerator[Any, None]:
        """The commands for the agent, until the call ends; meanwhile the agent is listened to."""
        listening = asyncio.create_task(listening_to)
        listening.add_done_callback(
            lambda _: channel.close(channel.closed_for or "the agent closed its side")
        )
        try:
            while (command := await channel.commands.get()) is not None and not channel.closed_for:
                yield command
            if channel.closed_for in ENDINGS:
                raise ENDINGS[channel.closed_for]()
            failure = listening.exception() if listening.done() and not listening.cancelled() else None
            if failure is not None and not isinstance(failure, grpc.aio.BaseError):
                raise failure
        finally:
            listening.cancel()
            await asyncio.shield(self._leave(channel))

    async def _leave(self, channel: GrpcChannel) -> None:
        reason = channel.closed_for or "the connection broke"
        log.info("fleet.agent_disconnected", agent_id=channel.agent_id, reason=reason)
        try:
            await self._fleet.detach(channel, reason)
        except StorageError as error:  # missed heartbeats will take it offline, unless it has reconnected
            log.warning("fleet.detach_failed", agent_id=channel.agent_id, error=str(error))


def number_of(context: Context) -> int:
    """The agent's number for the connection; 0 without one."""
    number = metadata(context, CONNECTION)
    return int(number[:18]) if number.isascii() and number.isdigit() else 0
