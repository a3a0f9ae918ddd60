"""agent.v1.AgentService: the first adapter of the agent channel (arcentra-wire.txt, decisions.md)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from uuid_utils import uuid7

from pilothouse.edge.grpc import metadata
from pilothouse.fleet import messages
from pilothouse.fleet.credentials import agent_caller, bearer
from pilothouse.fleet.errors import AgentExists, AgentNotFound, BadCredential, BadProfile, Overtaken
from pilothouse.fleet.model import AgentChannel, Condition, Task, Verdict
from pilothouse.fleet.service import Encoder, Fleet
from pilothouse.identity.service import Identity
from pilothouse.storage import Storage, StorageError, Tx
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1 import agent_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger("fleet.grpc")

CHANNEL = "grpc"
"""The name of this channel: ``Connect`` (:class:`pilothouse.fleet.model.AgentChannel`)."""
EMPTY: Mapping[str, Encoder] = MappingProxyType({})
MAX_COMMANDS = 10_000
MAX_UNDER_WAY = 256
"""How many messages of one agent may wait for their commit before more are read."""
CONNECTION = "pilot-connection"
"""Call metadata with an agent's number for a connection: the higher is the newer, in whatever order they arrive."""
REGISTRATION_KEY = "pilot-registration-key"
"""Call metadata of ``Register``: a secret of the agent, with which it may repeat the call (registry.py)."""

_ENDINGS = {
    "replaced": grpc.StatusCode.ABORTED,
    "overtaken": grpc.StatusCode.UNAVAILABLE,  # an agent that is still there reconnects with a higher number
    "going away": grpc.StatusCode.UNAVAILABLE,
    "unregistered": grpc.StatusCode.UNAUTHENTICATED,
}


class GrpcChannel:
    """One ``Connect`` call. Commands wait in a queue until they are sent.

    ``number``: the agent's own number for the connection, 0 if it does not number them; ``arrived``: our number for
    the call; ``encoders``: by kind of work, what makes a ``StepRun`` of a task.
    """

    name = CHANNEL

    def __init__(
        self, agent_id: str, number: int = 0, arrived: int = 0, encoders: Mapping[str, Encoder] = EMPTY
    ) -> None:
        self.agent_id = agent_id
        self.kinds = frozenset(encoders)
        self._encoders = encoders
        self.connection_id = str(uuid7())
        self.number = number
        self.arrived = arrived
        self.commands: asyncio.Queue[pb.ConnectResponse | None] = asyncio.Queue(MAX_COMMANDS)
        self.closed_for = ""

    def dispatch(self, task: Task) -> None:
        """Send work."""
        self._put(messages.dispatch(self.agent_id, task.id, self._encoders[task.kind](task)))

    def cancel(self, task_id: str, reason: str) -> None:
        """Tell the agent to stop a task."""
        self._put(messages.cancel(self.agent_id, task_id, reason))

    def close(self, reason: str) -> None:
        """End the call once the commands before this have gone out."""
        self.closed_for = reason
        self._put(None)

    def overtaken_by(self, other: AgentChannel | None) -> str:
        """Why the other is the newer connection of this agent; empty if it is not.

        A call may be delayed, in the network or while its credential is looked up, until after its successor: then
        it must not replace that.
        """
        if not isinstance(other, GrpcChannel) or other.closed_for:
            return ""
        if self.number and other.number:
            return "overtaken" if self.number < other.number else ""
        return "replaced" if self.arrived < other.arrived else ""

    def _put(self, command: pb.ConnectResponse | None) -> None:
        try:
            self.commands.put_nowait(command)
        except asyncio.QueueFull:
            log.warning("fleet.agent_not_reading", agent_id=self.agent_id, commands=MAX_COMMANDS)
            self.closed_for = "the agent does not read its commands"


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """Registration, liveness, work and its results.

    This release serves agents that hold a ``Connect`` call; the polling RPCs answer UNIMPLEMENTED.
    """

    def __init__(self, fleet: Fleet, identity: Identity, storage: Storage) -> None:
        self._fleet = fleet
        self._identity = identity
        self._storage = storage
        self._arrivals = itertools.count(1)

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Open to everyone who has a registration token, or the agent's own token."""
        profile = messages.profile(request)
        own = request.token or bearer(context)
        key = metadata(context, REGISTRATION_KEY)
        try:
            registration = await self._storage.write(
                lambda tx: self._fleet.registry.register(
                    tx, profile, registration_token=request.registration_token, own_token=own, key=key
                )
            )
        except BadCredential as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except AgentExists as error:
            said = f"{error.code}: {error}"
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, said, (("pilot-code", error.code),))
        except BadProfile as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if registration.token and not registration.repeated:
            # The credential of an open connection under this name is no longer valid.
            self._fleet.hub.close(profile.agent_id, "replaced")
        return pb.RegisterResponse(
            success=True,
            message="registered",
            agent_id=profile.agent_id,
            heartbeat_interval=int(self._fleet.settings.heartbeat * 1000),
            labels=dict(registration.agent.profile.labels),
            auth_token=registration.token or "",
        )

    async def Unregister(self, request: pb.UnregisterRequest, context: Context) -> pb.UnregisterResponse:
        """Remove the agent."""
        agent_id = await self._self(context, request.agent_id)
        await self._storage.write(lambda tx: self._fleet.unregister(tx, agent_id, request.reason))
        return pb.UnregisterResponse(success=True, message="unregistered")

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        """A heartbeat; for agents that do not keep a ``Connect`` call open."""
        agent_id = await self._self(context, request.agent_id)
        await self._storage.write(lambda tx: self._fleet.heartbeat(tx, agent_id))
        return pb.HeartbeatResponse(success=True, message="ok", timestamp=int(time.time()))

    async def UpdateLabels(
        self, request: pb.UpdateLabelsRequest, context: Context
    ) -> pb.UpdateLabelsResponse:
        """Change what work the agent matches, without a restart."""
        agent_id = await self._self(context, request.agent_id)
        principal = await agent_caller(context, self._identity)
        try:
            labels = await self._storage.write(
                lambda tx: self._fleet.registry.update_labels(
                    tx, principal, agent_id, dict(request.labels), request.merge
                )
            )
        except BadProfile as error:
            return pb.UpdateLabelsResponse(success=False, message=str(error))
        return pb.UpdateLabelsResponse(success=True, message="ok", labels=labels)

    async def ReportStepRunStatus(
        self, request: pb.ReportStepRunStatusRequest, context: Context
    ) -> pb.ReportStepRunStatusResponse:
        """Report a status; ``success``: it is stored, or was before."""
        agent_id = await self._self(context, request.agent_id)
        report = messages.report(request)
        if report is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "status is none that an agent can report")
            raise AssertionError("abort raises")
        report = await self._fleet.screened(agent_id, report)
        verdict = await self._storage.write(lambda tx: self._fleet.report(tx, agent_id, report))
        taken = verdict is not Verdict.STALE
        words = verdict.value if taken else "this step run is no longer leased to this agent"
        return pb.ReportStepRunStatusResponse(success=taken, message=words)

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """The control channel: work and cancellations out; heartbeats, acknowledgements and statuses in."""
        arrived = next(self._arrivals)
        agent_id = await self._self(context, "")
        channel = GrpcChannel(agent_id, _number(context), arrived, self._fleet.encoders(CHANNEL))
        if overtaken := channel.overtaken_by(self._fleet.hub.channel(agent_id, CHANNEL)):
            await context.abort(_ENDINGS[overtaken], f"this connection is {overtaken}")
        try:
            await self._fleet.attach(channel)
        except AgentNotFound as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except Overtaken as error:
            await context.abort(_ENDINGS["overtaken"], str(error))
        log.info("fleet.agent_connected", agent_id=agent_id, connection_id=channel.connection_id)
        listening = asyncio.create_task(self._listen(channel, request_iterator))
        listening.add_done_callback(
            lambda _: channel.close(channel.closed_for or "the agent closed its side")
        )
        try:
            while (command := await channel.commands.get()) is not None and not channel.closed_for:
                yield command
            if channel.closed_for in _ENDINGS:
                await context.abort(_ENDINGS[channel.closed_for], f"this connection is {channel.closed_for}")
            failure = listening.exception() if listening.done() and not listening.cancelled() else None
            if isinstance(failure, StorageError):
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(failure))
            elif failure is not None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(failure))
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

    async def FetchStepRun(
        self, request: pb.FetchStepRunRequest, context: Context
    ) -> pb.FetchStepRunResponse:
        """Not offered: work comes over ``Connect``."""
        return await _not_offered(context)

    async def ReportJobRunStatus(
        self, request: pb.ReportJobRunStatusRequest, context: Context
    ) -> pb.ReportJobRunStatusResponse:
        """Not offered: a job's status follows from its steps."""
        return await _not_offered(context)

    async def CancelStepRun(
        self, request: pb.CancelStepRunRequest, context: Context
    ) -> pb.CancelStepRunResponse:
        """Not offered: cancellations come over ``Connect``."""
        return await _not_offered(context)

    async def CancelJobRun(
        self, request: pb.CancelJobRunRequest, context: Context
    ) -> pb.CancelJobRunResponse:
        """Not offered: cancellations come over ``Connect``."""
        return await _not_offered(context)

    async def _listen(self, channel: GrpcChannel, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        """Process the agent's messages in order; those that arrive together share a commit."""
        under_way: deque[asyncio.Future[Any]] = deque()
        first = True
        async for request in requests:
            if request.agent_id and request.agent_id != channel.agent_id:
                raise PermissionError(f"this connection belongs to agent {channel.agent_id}")
            if channel.closed_for and request.HasField("heartbeat"):
                continue  # its list of tasks may be older than that of the connection that replaced it
            use_case = await self._use_case(channel, request, first)
            first = first and not request.HasField("heartbeat")
            if use_case is not None:
                under_way.append(self._storage.submit(use_case))
            while under_way and (under_way[0].done() or len(under_way) > MAX_UNDER_WAY):
                await asyncio.shield(under_way.popleft())
        await asyncio.gather(*under_way)

    async def _use_case(
        self, channel: GrpcChannel, request: pb.ConnectRequest, first: bool
    ) -> Callable[[Tx], object] | None:
        fleet, agent_id = self._fleet, channel.agent_id
        match request.WhichOneof("payload"):
            case "heartbeat":
                beat = request.heartbeat
                holds = frozenset(beat.running_step_run_ids) if beat.reports_running else None
                condition = Condition.reported(beat.blocked_slots, beat.problems)
                return lambda tx: fleet.heartbeat(
                    tx, agent_id, holds, first=first, condition=condition, kinds=channel.kinds
                )
            case "task_ack":
                ack = request.task_ack
                if ack.status == pb.ACK_STATUS_FAILED:
                    why = await fleet.screened_text(agent_id, ack.command_id, ack.message)
                    return lambda tx: fleet.refused(tx, agent_id, ack.command_id, why)
                return lambda tx: fleet.acknowledged(tx, agent_id, ack.command_id)
            case "task_status":
                report = messages.report(request.task_status)
                if report is None:
                    return None
                shown = await fleet.screened(agent_id, report)
                return lambda tx: fleet.report(tx, agent_id, shown)
        return None

    async def _self(self, context: Context, claimed: str) -> str:
        """The calling agent's id; it may not act under another's."""
        principal = await agent_caller(context, self._identity)
        if claimed and claimed != principal.id:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"this credential belongs to agent {principal.id}"
            )
        return principal.id


def _number(context: Context) -> int:
    number = metadata(context, CONNECTION)
    return int(number[:18]) if number.isascii() and number.isdigit() else 0


async def _not_offered(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this release serves agents over Connect")
    raise AssertionError("abort raises")
