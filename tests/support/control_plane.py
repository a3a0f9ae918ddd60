"""A fake control plane over real gRPC that follows the contract, records requests, and can misbehave."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson
import zstandard
from google.protobuf import json_format

from pilothouse.wire.agent.v1 import agent_pb2 as agent
from pilothouse.wire.agent.v1 import agent_pb2_grpc
from pilothouse.wire.gateway.v1 import gateway_pb2 as gateway
from pilothouse.wire.gateway.v1 import gateway_pb2_grpc
from pilothouse.wire.steprun.v1 import steprun_pb2 as steprun

REGISTRATION = "reg-token"
Ack = gateway.IngestAck
RUNNING = steprun.STEP_RUN_STATUS_RUNNING
SUCCESS = steprun.STEP_RUN_STATUS_SUCCESS
FAILED = steprun.STEP_RUN_STATUS_FAILED
CANCELLED = steprun.STEP_RUN_STATUS_CANCELLED
TIMEOUT = steprun.STEP_RUN_STATUS_TIMEOUT


@dataclass
class Faults:
    """By name of the RPC. `refuse`: UNAVAILABLE at once. `lose`: so many answers are lost after the work was done.

    `delay`: seconds before the work. `stale`: step runs that are no longer leased.
    """

    refuse: set[str] = field(default_factory=set)
    lose: Counter[str] = field(default_factory=Counter)
    delay: dict[str, float] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    break_after: int = 0  # batches of a push call after which it is cut off, once


@dataclass
class Ingested:
    """What one of the two push RPCs has taken in."""

    seen: dict[int, str] = field(default_factory=dict)
    calls: int = 0

    @property
    def last(self) -> int:
        return max(self.seen, default=0)

    def check(self, seq: int, key: str, gaps: bool) -> str:
        if seq <= self.last:
            return "repeated" if self.seen.get(seq, key) == key else "out of order"
        if seq > self.last + 1 and not gaps:
            return "out of order"
        self.seen[seq] = key
        return "new"


class ControlPlane(agent_pb2_grpc.AgentServiceServicer, gateway_pb2_grpc.GatewayServiceServicer):
    """Its memory outlives `stop` and `start`, as a server's database does."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.heartbeat = 0.2  # seconds
        self.address = "127.0.0.1:0"
        self.token = ""
        self.registrations: list[agent.RegisterRequest] = []
        self.heartbeats: list[agent.ConnectHeartbeat] = []
        self.first_beats: list[agent.ConnectHeartbeat] = []
        self.reports: list[agent.ReportStepRunStatusRequest] = []
        self.started: set[str] = set()
        self.ended: dict[str, agent.ReportStepRunStatusRequest] = {}
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.logs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.events: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        self.log_seqs, self.event_seqs = Ingested(), Ingested()
        self.batches: list[gateway.LogBatch] = []
        self.known_at_end: dict[str, int] = {}  # lines that were there when the result came
        self._offers: dict[str, agent.StepRun] = {}
        self._connections: list[asyncio.Queue[agent.ConnectResponse | str]] = []
        self._server: grpc.aio.Server | None = None

    # -- the process ------------------------------------------------------------------------------------

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 16 << 20),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ]
        )
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self, self._server)
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, self._server)
        if credentials is None:
            port = self._server.add_insecure_port(self.address)
        else:
            port = self._server.add_secure_port(self.address, credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    # -- what a test does -------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return bool(self._connections)

    def offer(self, step_run_id: str, **fields: Any) -> None:
        """Lease a step run to the agent; offered again on each connection until it has started."""
        values: dict[str, Any] = {
            "uses": "shell",
            "action": "command",
            "workspace": f"ws-{step_run_id}",
            "fresh_workspace": True,
            "last_in_job": True,
            **fields,
        }
        args: Mapping[str, Any] = values.pop("args", {})
        message = agent.StepRun(step_run_id=step_run_id, job_name="job", step_name="step", **values)
        json_format.ParseDict(dict(args), message.args)
        self._offers[step_run_id] = message
        self.send(step_run_id)

    def send(self, step_run_id: str) -> None:
        """Dispatch (once more) on the present connection."""
        dispatch = agent.TaskDispatch(step_runs=[self._offers[step_run_id]])
        self._put(agent.ConnectResponse(command_id=step_run_id, task_dispatch=dispatch))

    def cancel(self, step_run_id: str) -> None:
        self._put(
            agent.ConnectResponse(task_cancel=agent.TaskCancel(step_run_id=step_run_id, reason="asked"))
        )

    def cut(self, how: str = "broken") -> None:
        """End all Connect calls, with the status "replaced"."""
        self._put(how)

    def forget_numbers(self) -> None:
        """As after restoring an old backup."""
        self.log_seqs, self.event_seqs = Ingested(), Ingested()

    def _put(self, command: agent.ConnectResponse | str) -> None:
        for connection in self._connections:
            connection.put_nowait(command)

    # -- agent.v1 ---------------------------------------------------------------------------------------

    async def Register(self, request: agent.RegisterRequest, context: Any) -> agent.RegisterResponse:
        await self._fault("Register", context)
        self.registrations.append(request)
        reply = agent.RegisterResponse(success=True, heartbeat_interval=int(self.heartbeat * 1000))
        if request.registration_token:
            if request.registration_token != REGISTRATION:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such registration token")
            self.token = reply.auth_token = f"own-{len(self.registrations)}"
            self.forget_numbers()
        elif not self.token or request.token != self.token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")
        return reply

    async def Connect(
        self, requests: AsyncIterator[agent.ConnectRequest], context: Any
    ) -> AsyncIterator[agent.ConnectResponse]:
        await self._authenticate(context)
        await self._fault("Connect", context)
        commands: asyncio.Queue[agent.ConnectResponse | str] = asyncio.Queue()
        self._connections.append(commands)
        listening = asyncio.create_task(self._listen(requests))
        try:
            for step_run_id, offer in list(self._offers.items()):
                if step_run_id not in self.started:
                    yield agent.ConnectResponse(task_dispatch=agent.TaskDispatch(step_runs=[offer]))
            while not isinstance(command := await commands.get(), str):
                yield command
            if command == "replaced":
                await context.abort(grpc.StatusCode.ABORTED, "this connection is replaced")
            await context.abort(grpc.StatusCode.UNAVAILABLE, command)
        finally:
            listening.cancel()
            self._connections.remove(commands)

    async def _listen(self, requests: AsyncIterator[agent.ConnectRequest]) -> None:
        first = True
        async for request in requests:
            self.heartbeats.append(request.heartbeat)
            if first:
                self.first_beats.append(request.heartbeat)
            first = False

    async def ReportStepRunStatus(
        self, request: agent.ReportStepRunStatusRequest, context: Any
    ) -> agent.ReportStepRunStatusResponse:
        await self._authenticate(context)
        await self._fault("ReportStepRunStatus", context)
        self.reports.append(request)
        name = request.step_run_id
        taken = name in self._offers and name not in self.faults.stale
        if taken and request.status == RUNNING:
            self.started.add(name)
        elif taken and name not in self.ended:
            self.ended[name] = request
            self.known_at_end[name] = len(self.lines[name])
            self.started.add(name)
        await self._lose("ReportStepRunStatus", context)
        return agent.ReportStepRunStatusResponse(success=taken)

    # -- gateway.v1 -------------------------------------------------------------------------------------

    async def PushLogs(
        self, requests: AsyncIterator[gateway.PushLogsRequest], context: Any
    ) -> gateway.PushLogsResponse:
        await self._authenticate(context)
        await self._fault("PushLogs", context)
        assert ("pilot-log-format", "ndjson") in [(k, v) for k, v in context.invocation_metadata()]
        self.log_seqs.calls += 1
        status, expected, count = Ack.STATUS_ACCEPTED, 0, 0
        async for request in requests:
            if request.WhichOneof("payload") != "batch":
                continue
            await self._refusal("PushLogs", context)
            meta = request.batch.meta
            verdict = self.log_seqs.check(meta.seq, request.batch.batch_id, gaps=True)
            if verdict == "out of order":
                status, expected = Ack.STATUS_OUT_OF_ORDER, self.log_seqs.last + 1
                break
            if verdict == "new":
                self._take_lines(request.batch)
            count += 1
            if count == self.faults.break_after:
                self.faults.break_after = 0
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut off")
        await self._lose("PushLogs", context)
        return gateway.PushLogsResponse(ack=_ack(self.log_seqs, status, expected))

    def _take_lines(self, batch: gateway.LogBatch) -> None:
        self.batches.append(batch)
        data = _unpack(batch)
        assert len(data) == batch.raw_size
        for line in data.splitlines():
            log = orjson.loads(line)
            self.logs[batch.meta.step_id].append(log)
            self.lines[batch.meta.step_id].append(log["content"])

    async def PushEvents(
        self, requests: AsyncIterator[gateway.PushEventsRequest], context: Any
    ) -> gateway.PushEventsResponse:
        await self._authenticate(context)
        await self._fault("PushEvents", context)
        self.event_seqs.calls += 1
        async for request in requests:
            await self._refusal("PushEvents", context)
            for event in request.batch.events:
                verdict = self.event_seqs.check(event.meta.seq, event.event_id, gaps=False)
                if verdict == "out of order":
                    ack = _ack(self.event_seqs, Ack.STATUS_OUT_OF_ORDER, self.event_seqs.last + 1)
                    return gateway.PushEventsResponse(ack=ack)
                if verdict == "new":
                    payload = json_format.MessageToDict(event.payload)
                    self.events[event.meta.step_id].append((event.event_type, payload))
        await self._lose("PushEvents", context)
        return gateway.PushEventsResponse(ack=_ack(self.event_seqs, Ack.STATUS_ACCEPTED, 0))

    # -- faults -----------------------------------------------------------------------------------------

    async def _authenticate(self, context: Any) -> None:
        if ("authorization", f"Bearer {self.token}") not in [
            (k, v) for k, v in context.invocation_metadata()
        ]:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")

    async def _refusal(self, rpc: str, context: Any) -> None:
        if rpc in self.faults.refuse:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "refused by the test")

    async def _fault(self, rpc: str, context: Any) -> None:
        await self._refusal(rpc, context)
        await asyncio.sleep(self.faults.delay.get(rpc, 0))

    async def _lose(self, rpc: str, context: Any) -> None:
        if self.faults.lose[rpc] > 0:
            self.faults.lose[rpc] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")


def _ack(ingested: Ingested, status: Ack.Status.ValueType, expected: int) -> Ack:
    return Ack(status=status, last_accepted_seq=ingested.last, expected_seq=expected or ingested.last + 1)


def _unpack(batch: gateway.LogBatch) -> bytes:
    if batch.compression == gateway.LogBatch.COMPRESSION_ZSTD:
        return zstandard.ZstdDecompressor().decompress(batch.data, max_output_size=8 << 20)
    if batch.compression == gateway.LogBatch.COMPRESSION_GZIP:
        return gzip.decompress(batch.data)
    return batch.data
