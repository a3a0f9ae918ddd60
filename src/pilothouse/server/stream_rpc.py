"""``stream.v1.StreamService``: the journal over gRPC, with the readers of SSE and WebSocket (arcentra-wire.txt).

Each entry is encoded once for all clients that follow it.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from sqlalchemy import Connection

from pilothouse.engine.streams import arcentra_status
from pilothouse.fleet.stream_channel import AgentChannels
from pilothouse.fleet.streams import agent_status
from pilothouse.identity.service import Identity
from pilothouse.journal import Feed
from pilothouse.journal.model import Sees
from pilothouse.journal.protobuf import ProtoFormat
from pilothouse.server.following import Context, Follower
from pilothouse.server.system_events import PublicEvents, SystemEvent, watch_events
from pilothouse.server.watches import JOBS, RUNS, STEP_RUNS, RunFilter, Watch, watch_agents, watch_runs
from pilothouse.storage import Storage
from pilothouse.wire.stream.v1 import stream_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["StreamService"].full_name


class StreamService:
    """The calls of the service; ``AgentChannel`` is served by the fleet."""

    def __init__(
        self, identity: Identity, feed: Feed, storage: Storage, events: PublicEvents, agents: AgentChannels
    ) -> None:
        self._public = events
        self._channels = agents
        self._follower = Follower(identity, feed, storage)
        self._step_runs = ProtoFormat("stream.v1/step-run", feed.epoch, arcentra_status.step_run_status)
        self._jobs = ProtoFormat("stream.v1/job", feed.epoch, arcentra_status.job_status)
        self._runs = ProtoFormat("stream.v1/run", feed.epoch, arcentra_status.run_status)
        self._agents = ProtoFormat("stream.v1/agent", feed.epoch, agent_status)
        self._events = ProtoFormat("stream.v1/event", feed.epoch, SystemEvent(feed.epoch, events))

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The handler for the server. Messages of streams need no serializer, since they are encoded already."""
        handlers = {
            "StreamStepRunStatus": _stream(self.step_runs, pb.StreamStepRunStatusRequest.FromString),
            "StreamJobStatus": _stream(self.jobs, pb.StreamJobStatusRequest.FromString),
            "StreamPipelineStatus": _stream(self.runs, pb.StreamPipelineStatusRequest.FromString),
            "StreamAgentStatus": _stream(self.agents, pb.StreamAgentStatusRequest.FromString),
            "StreamEvents": _stream(self.events, pb.StreamEventsRequest.FromString),
            "AgentChannel": grpc.stream_stream_rpc_method_handler(
                self._channels.serve,
                request_deserializer=pb.AgentChannelRequest.FromString,
                response_serializer=pb.AgentChannelResponse.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def step_runs(self, request: pb.StreamStepRunStatusRequest, context: Context) -> None:
        """Statuses of step runs; ends when those named, or the job or run named, have ended."""
        asked = RunFilter(
            run_ids=_given(request.pipeline_run_id),
            pipeline_ids=_given(request.pipeline_id),
            job_ids=_given(request.job_id),
            job_name=request.job_name,
            step_run_ids=frozenset(request.step_run_ids),
        )

        def find(conn: Connection, sees: Sees, present: bool) -> Watch:
            return watch_runs(conn, STEP_RUNS, asked, sees, present=present)

        names = (*request.step_run_ids, request.pipeline_run_id, request.pipeline_id, request.job_id)
        await self._follower.serve(context, "run.read", self._step_runs, find, (*names, request.job_name))

    async def jobs(self, request: pb.StreamJobStatusRequest, context: Context) -> None:
        """Statuses of jobs; ends when those named, or the run named, have ended."""
        asked = RunFilter(
            run_ids=_given(request.pipeline_run_id),
            pipeline_ids=_given(request.pipeline_id),
            job_ids=frozenset(request.job_ids),
        )

        def find(conn: Connection, sees: Sees, present: bool) -> Watch:
            return watch_runs(conn, JOBS, asked, sees, present=present)

        names = (*request.job_ids, request.pipeline_run_id, request.pipeline_id)
        await self._follower.serve(context, "run.read", self._jobs, find, names)

    async def runs(self, request: pb.StreamPipelineStatusRequest, context: Context) -> None:
        """Statuses of runs; ends when those named have ended."""
        asked = RunFilter(
            run_ids=frozenset(request.pipeline_run_ids), pipeline_ids=frozenset(request.pipeline_ids)
        )

        def find(conn: Connection, sees: Sees, present: bool) -> Watch:
            return watch_runs(conn, RUNS, asked, sees, present=present)

        names = (*request.pipeline_run_ids, *request.pipeline_ids)
        await self._follower.serve(context, "run.read", self._runs, find, names)

    async def agents(self, request: pb.StreamAgentStatusRequest, context: Context) -> None:
        """Statuses of agents; does not end."""
        ids = frozenset(request.agent_ids)

        def find(conn: Connection, _sees: Sees, present: bool) -> Watch:
            return watch_agents(conn, ids, present=present)

        await self._follower.serve(context, "agent.read", self._agents, find, request.agent_ids)

    async def events(self, request: pb.StreamEventsRequest, context: Context) -> None:
        """Events as they happen, earlier ones only with a cursor; does not end."""

        def find(conn: Connection, sees: Sees, _present: bool) -> Watch:
            return watch_events(conn, request, sees, self._public)

        await self._follower.serve(context, "events.read", self._events, find, request.resource_ids)


def _stream(call: Any, request: Any) -> Any:
    return grpc.unary_stream_rpc_method_handler(call, request_deserializer=request)


def _given(id: str) -> frozenset[str]:
    return frozenset({id}) if id else frozenset()
