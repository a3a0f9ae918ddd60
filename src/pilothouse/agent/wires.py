"""The two RPCs of `gateway.v1.GatewayService` as used by the pusher: converts spool records to requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from grpc.aio import StreamUnaryCall

from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from pilothouse.wire.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

CALL_TIMEOUT = 60.0  # seconds for a whole call; one lasts a second and then waits for its ack
NDJSON = ("pilot-log-format", "ndjson")

Metadata = tuple[tuple[str, str], ...]
Request = TypeVar("Request")
Record = tuple[int, bytes]  # sequence number and payload


class PushResponse(Protocol):
    """The response of both RPCs."""

    @property
    def ack(self) -> pb.IngestAck: ...


class Wire(Protocol[Request]):
    """One RPC. `name`: for logs; `group`: number of records per request."""

    name: str
    group: int

    def open(self, stub: GatewayServiceStub, metadata: Metadata) -> StreamUnaryCall[Request, PushResponse]:
        """Begin a call."""

    def hello(self, agent_id: str, last_seq: int) -> Request:
        """The first message of a call."""

    def pack(self, agent_id: str, records: Sequence[Record]) -> Request:
        """A request with these records under their current sequence numbers."""


class LogWire:
    """PushLogs; a record is a serialized LogBatch."""

    name = "logs"
    group = 1

    def open(
        self, stub: GatewayServiceStub, metadata: Metadata
    ) -> StreamUnaryCall[pb.PushLogsRequest, PushResponse]:
        return stub.PushLogs(None, timeout=CALL_TIMEOUT, metadata=(*metadata, NDJSON))  # type: ignore[return-value]  # the stubs have it invariant

    def hello(self, agent_id: str, last_seq: int) -> pb.PushLogsRequest:
        return pb.PushLogsRequest(handshake=pb.AgentHandshake(agent_id=agent_id, last_known_seq=last_seq))

    def pack(self, agent_id: str, records: Sequence[Record]) -> pb.PushLogsRequest:
        ((seq, payload),) = records
        request = pb.PushLogsRequest()
        request.batch.ParseFromString(payload)
        request.batch.meta.agent_id, request.batch.meta.seq = agent_id, seq
        return request


class EventWire:
    """PushEvents; a record is a serialized Event."""

    name = "events"
    group = 200

    def open(
        self, stub: GatewayServiceStub, metadata: Metadata
    ) -> StreamUnaryCall[pb.PushEventsRequest, PushResponse]:
        return stub.PushEvents(None, timeout=CALL_TIMEOUT, metadata=metadata)  # type: ignore[return-value]  # the stubs have it invariant

    def hello(self, agent_id: str, last_seq: int) -> pb.PushEventsRequest:
        return pb.PushEventsRequest(handshake=pb.AgentHandshake(agent_id=agent_id, last_known_seq=last_seq))

    def pack(self, agent_id: str, records: Sequence[Record]) -> pb.PushEventsRequest:
        request = pb.PushEventsRequest()
        for seq, payload in records:
            event = request.batch.events.add()
            event.ParseFromString(payload)
            event.meta.agent_id, event.meta.seq = agent_id, seq
        request.batch.batch_id = request.batch.events[0].event_id
        return request
