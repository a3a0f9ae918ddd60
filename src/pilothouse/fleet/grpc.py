"""agent.v1.AgentService: the first adapter of the agent channel (arcentra-wire.txt, decisions.md)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.grpc import bearer, metadata, peer_address
from pilothouse.fleet import messages
from pilothouse.fleet.budgets import Budgets
from pilothouse.fleet.credentials import agent_caller
from pilothouse.fleet.errors import (
    AgentNotFound,
    BadCredential,
    BadMessage,
    BadProfile,
    Overtaken,
    Replaced,
    WrongAgent,
)
from pilothouse.fleet.handlers import Encoder
from pilothouse.fleet.listener import Listener
from pilothouse.fleet.model import MAX_PROBLEM, AgentChannel, Task, Verdict
from pilothouse.fleet.registry import changed_labels, check_profile
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.storage import Storage, StorageError, now_ms
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1 import agent_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger("fleet.grpc")

CHANNEL = "grpc"
"""The name of this channel: ``Connect`` (:class:`pilothouse.fleet.model.AgentChannel`)."""
EMPTY: Mapping[str, Encoder] = MappingProxyType({})
MAX_COMMANDS = 10_000
NOT_OFFERED = frozenset({"FetchStepRun", "ReportJobRunStatus", "CancelStepRun", "CancelJobRun"})
CONNECTION = "pilot-connection"
"""Call metadata with an agent's number for a connection: the higher is the newer, in whatever order they arrive."""
REGISTRATION_KEY = "pilot-registration-key"
"""Call metadata of ``Register``: a secret of the agent, with which it may repeat the call (registry.py)."""

_ENDINGS: Mapping[str, Callable[[], Refusal]] = {
    "replaced": Replaced,
    "overtaken": Overtaken,
    "going away": lambda: Refusal.of("SERVER_STOPPING", "this connection is going away: reconnect"),
    "unregistered": lambda: BadCredential("this connection is unregistered"),
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

    def __init__(
        self, fleet: Fleet, identity: Identity, storage: Storage, clock: Callable[[], int] = now_ms
    ) -> None:
        """``clock`` gives ms since 1970."""
        self._fleet = fleet
        self._identity = identity
        self._storage = storage
        self._clock = clock
        self._arrivals = itertools.count(1)
        self._budgets = Budgets(clock)
        self._beating: dict[str, asyncio.Future[None]] = {}

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Open to everyone who has a registration token, or the agent's own token."""
        profile, registry = messages.profile(request), self._fleet.registry
        check_profile(profile)
        # What can be refused is refused by a read: strangers cost no transaction.
        offered = _Offered(request, context)
        await self._storage.read(lambda conn: registry.check(conn, self._clock(), profile, **offered.given))
        self._budgets.change(profile.agent_id)
        address = peer_address(context)
        registration = await self._storage.write(
            lambda tx: registry.register(tx, profile, **offered.given, address=address)
        )
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
        principal = await self._self(context, request.agent_id)
        said = messages.text(request.reason)
        reason = await self._fleet.screened_text(principal.id, "", said, MAX_PROBLEM)
        await self._storage.write(lambda tx: self._fleet.unregister(tx, principal.id, reason, by=principal))
        return pb.UnregisterResponse(success=True, message="unregistered")

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        """A heartbeat; for agents that do not keep a ``Connect`` call open."""
        agent_id = (await self._self(context, request.agent_id)).id
        self._fleet.arrivals.heard(agent_id)
        writing = self._beating.get(agent_id)
        if writing is None:  # otherwise this one is answered with that which is written at the moment
            writing = self._storage.submit(lambda tx: self._fleet.heartbeat(tx, agent_id))
            self._beating[agent_id] = writing
            writing.add_done_callback(lambda _: self._beating.pop(agent_id, None))
        await asyncio.shield(writing)
        return pb.HeartbeatResponse(success=True, message="ok", timestamp=int(time.time()))

    async def UpdateLabels(
        self, request: pb.UpdateLabelsRequest, context: Context
    ) -> pb.UpdateLabelsResponse:
        """Change what work the agent matches, without a restart."""
        principal = await self._self(context, request.agent_id)
        agent_id, wanted, merge = principal.id, dict(request.labels), request.merge
        registry = self._fleet.registry
        try:
            labels, changed = await self._storage.read(
                lambda conn: changed_labels(conn, agent_id, wanted, merge)
            )
            if changed:
                self._budgets.change(agent_id)
                labels = await self._storage.write(
                    lambda tx: registry.update_labels(tx, principal, agent_id, wanted, merge)
                )
        except BadProfile as error:
            return pb.UpdateLabelsResponse(success=False, message=str(error))
        return pb.UpdateLabelsResponse(success=True, message="ok", labels=labels)

    async def ReportStepRunStatus(
        self, request: pb.ReportStepRunStatusRequest, context: Context
    ) -> pb.ReportStepRunStatusResponse:
        """Report a status; ``success``: it is stored, or was before."""
        agent_id = (await self._self(context, request.agent_id)).id
        report = messages.report(request)
        if report is None:
            raise BadMessage("status is none that an agent can report")
        self._budgets.check_reports(agent_id)
        verdict = Verdict.STALE
        if report.task_id:
            shown = await self._fleet.screened(agent_id, report)
            verdict = await self._storage.write(lambda tx: self._fleet.report(tx, agent_id, shown))
        taken = verdict is not Verdict.STALE
        if not taken:
            self._budgets.stale(agent_id)
        words = verdict.value if taken else "this step run is no longer leased to this agent"
        return pb.ReportStepRunStatusResponse(success=taken, message=words)

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """The control channel: work and cancellations out; heartbeats, acknowledgements and statuses in."""
        arrived = next(self._arrivals)
        agent_id = (await self._self(context, "")).id
        channel = GrpcChannel(agent_id, _number(context), arrived, self._fleet.encoders(CHANNEL))
        if overtaken := channel.overtaken_by(self._fleet.hub.channel(agent_id, CHANNEL)):
            raise _ENDINGS[overtaken]()
        try:
            agent = await self._fleet.attach(channel)
        except AgentNotFound as error:
            raise BadCredential(str(error)) from None
        log.info("fleet.agent_connected", agent_id=agent_id, connection_id=channel.connection_id)
        listener = Listener(self._fleet, self._storage, self._budgets, channel, agent.profile.slots)
        listening = asyncio.create_task(listener.listen(request_iterator))
        listening.add_done_callback(
            lambda _: channel.close(channel.closed_for or "the agent closed its side")
        )
        try:
            while (command := await channel.commands.get()) is not None and not channel.closed_for:
                yield command
            if channel.closed_for in _ENDINGS:
                raise _ENDINGS[channel.closed_for]()
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

    async def FetchStepRun(
        self, request: pb.FetchStepRunRequest, context: Context
    ) -> pb.FetchStepRunResponse:
        """Not offered: work comes over ``Connect``."""
        _not_offered()

    async def ReportJobRunStatus(
        self, request: pb.ReportJobRunStatusRequest, context: Context
    ) -> pb.ReportJobRunStatusResponse:
        """Not offered: a job's status follows from its steps."""
        _not_offered()

    async def CancelStepRun(
        self, request: pb.CancelStepRunRequest, context: Context
    ) -> pb.CancelStepRunResponse:
        """Not offered: cancellations come over ``Connect``."""
        _not_offered()

    async def CancelJobRun(
        self, request: pb.CancelJobRunRequest, context: Context
    ) -> pb.CancelJobRunResponse:
        """Not offered: cancellations come over ``Connect``."""
        _not_offered()

    async def _self(self, context: Context, claimed: str) -> Principal:
        """The calling agent; it may not act under another's id."""
        principal = await agent_caller(context, self._identity)
        if claimed and claimed != principal.id:
            raise WrongAgent(principal.id)
        return principal


class _Offered:
    """The credentials of a registration."""

    def __init__(self, request: pb.RegisterRequest, context: Context) -> None:
        own, _ = bearer(context)
        self.given = {
            "registration_token": request.registration_token,
            "own_token": request.token or own,
            "key": metadata(context, REGISTRATION_KEY),
        }


def _number(context: Context) -> int:
    number = metadata(context, CONNECTION)
    return int(number[:18]) if number.isascii() and number.isdigit() else 0


def _not_offered() -> NoReturn:
    raise Refusal.of("NOT_IMPLEMENTED", "this release serves agents over Connect")
