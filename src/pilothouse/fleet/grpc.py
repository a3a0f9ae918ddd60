"""agent.v1.AgentService: the first adapter of the agent channel (arcentra-wire.txt, decisions.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from pilothouse.edge.grpc import bearer, metadata, peer_address
from pilothouse.fleet import messages
from pilothouse.fleet.errors import BadProfile
from pilothouse.fleet.listener import Listener
from pilothouse.fleet.model import MAX_PROBLEM
from pilothouse.fleet.open_calls import CONNECT, ENDINGS, GrpcChannel, number_of
from pilothouse.fleet.registry import changed_labels, check_profile
from pilothouse.fleet.work_rpc import WorkCalls
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1 import agent_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

CHANNEL = CONNECT
"""The name of this channel: ``Connect`` (:class:`pilothouse.fleet.model.AgentChannel`)."""
REGISTRATION_KEY = "pilot-registration-key"
"""Call metadata of ``Register``: a secret of the agent, with which it may repeat the call (registry.py)."""


class AgentService(WorkCalls, agent_pb2_grpc.AgentServiceServicer):
    """Registration, labels, and the control channel; the calls about work are those of :class:`WorkCalls`."""

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

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """The control channel: work and cancellations out; heartbeats, acknowledgements and statuses in."""
        arrived = next(self._arrivals)
        agent_id = (await self._self(context, "")).id
        channel = GrpcChannel(agent_id, number_of(context), arrived, self._fleet.encoders(CHANNEL))
        if overtaken := channel.overtaken_by(self._fleet.hub.channel(agent_id, CHANNEL)):
            raise ENDINGS[overtaken]()
        agent = await self._calls.attach(channel)
        listener = Listener(self._fleet, self._storage, self._budgets, channel, agent.profile.slots)
        async with aclosing(self._calls.held_open(channel, listener.listen(request_iterator))) as commands:
            async for command in commands:
                yield command


class _Offered:
    """The credentials of a registration."""

    def __init__(self, request: pb.RegisterRequest, context: Context) -> None:
        own, _ = bearer(context)
        self.given = {
            "registration_token": request.registration_token,
            "own_token": request.token or own,
            "key": metadata(context, REGISTRATION_KEY),
        }
