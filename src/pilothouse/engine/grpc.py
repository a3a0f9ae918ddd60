"""gateway.v1.GatewayService: log lines and events from agents (arcentra-wire.txt, decisions.md)."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeAlias

import grpc
from google.protobuf import struct_pb2

from pilothouse.edge.grpc import metadata
from pilothouse.edge.module import RpcService
from pilothouse.engine.intake.batches import GZIP, MAX_ID, PLAIN, ZSTD, BatchInvalid, RawBatch
from pilothouse.engine.intake.events import StepEvent
from pilothouse.engine.intake.ingest import EVENTS, LOGS, NOTHING, NOWHERE, Ingest, Receipt, Taken, Target
from pilothouse.engine.intake.lines import LogLines
from pilothouse.fleet.credentials import agent_caller
from pilothouse.fleet.errors import BadMessage, WrongAgent
from pilothouse.identity.service import Identity
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from pilothouse.wire.gateway.v1 import gateway_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MAX_MESSAGE = 16 << 20
"""Bytes of a message."""
MAX_EVENTS = 10_000
"""Events of a message."""
MAX_SEQ = 2**63 - 1
MAX_REJECTED = 10_000
"""Rejected batches or events after which a call is answered before its end."""
MAX_PAYLOAD, MAX_VALUES, MAX_DEPTH = 4 << 20, 5_000, 64
"""Bytes of an event's payload, values in it, and how deep it is nested."""
_COMPRESSION = {
    pb.LogBatch.COMPRESSION_UNSPECIFIED: PLAIN,
    pb.LogBatch.COMPRESSION_NONE: PLAIN,
    pb.LogBatch.COMPRESSION_GZIP: GZIP,
    pb.LogBatch.COMPRESSION_ZSTD: ZSTD,
}

RECHECK = 2.0
"""Seconds after which an agent in the midst of a call is asked for its right again."""

IN_FLIGHT = 16
"""Batches of one call that may wait for the disk at once."""


class Tally:
    """The results of the batches of one call, for its ack."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.next = last + 1
        self.accepted = 0
        self.rejected: list[int] = []
        self.message = ""
        self.out_of_order: Receipt | None = None

    def count(self, seq: int, receipt: Receipt) -> None:
        """Add one batch's receipt."""
        self.next = max(self.next, receipt.expected)
        if receipt.taken is Taken.OUT_OF_ORDER:
            self.out_of_order = self.out_of_order or receipt
        elif receipt.taken is Taken.REJECTED:
            self.rejected.append(seq)
            self.message = self.message or receipt.message
        else:
            self.accepted += 1
            self.last = max(self.last, seq)

    @property
    def over(self) -> bool:
        """Whether the call is to be answered now."""
        return self.out_of_order is not None or len(self.rejected) >= MAX_REJECTED

    def ack(self) -> pb.IngestAck:
        """The ack, to be sent when all accepted batches are on disk."""
        ack = pb.IngestAck(
            last_accepted_seq=max(self.last, 0), rejected_seqs=self.rejected, message=self.message
        )
        if self.out_of_order is not None:
            ack.status = pb.IngestAck.STATUS_OUT_OF_ORDER
            ack.message = self.out_of_order.message
        elif not self.rejected:
            ack.status = pb.IngestAck.STATUS_ACCEPTED
        elif self.accepted:
            ack.status = pb.IngestAck.STATUS_PARTIAL_ACCEPTED
        else:
            ack.status = pb.IngestAck.STATUS_REJECTED
        ack.expected_seq = self.next
        return ack


def gateway_rpc(ingest: Ingest, identity: Identity) -> RpcService:
    """gateway.v1.GatewayService, to be added to the server."""
    service = GatewayService(ingest, identity)
    return RpcService(
        pb.DESCRIPTOR.services_by_name["GatewayService"].full_name,
        lambda server: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(service, server),
        max_message={"PushLogs": MAX_MESSAGE, "PushEvents": MAX_MESSAGE},
    )


class GatewayService(gateway_pb2_grpc.GatewayServiceServicer):
    """Only for agents, and only for attempts that they hold a lease for."""

    def __init__(self, ingest: Ingest, identity: Identity) -> None:
        self._ingest = ingest
        self._identity = identity

    async def PushLogs(
        self, request_iterator: AsyncIterator[pb.PushLogsRequest], context: Context
    ) -> pb.PushLogsResponse:
        """Batches are committed and shown as they arrive; the ack at half-close confirms that they are on disk."""
        agent = await agent_caller(context, self._identity)
        ndjson = metadata(context, "pilot-log-format") == "ndjson"
        call = LogCall(self._ingest, agent.id, Tally(await self._ingest.last_seq(agent.id, LOGS)))
        credential = _CredentialCheck(self._identity, context)
        async for request in request_iterator:
            await credential.check()
            _check_agent(agent.id, request.handshake.agent_id, request.batch.meta.agent_id)
            if request.WhichOneof("payload") == "handshake":
                call.begins = _begins(request.handshake)
            elif request.WhichOneof("payload") == "batch":
                await call.take(request.batch, ndjson)
                if call.tally.over:
                    break
        await call.finish()
        return pb.PushLogsResponse(ack=call.tally.ack())

    async def PushEvents(
        self, request_iterator: AsyncIterator[pb.PushEventsRequest], context: Context
    ) -> pb.PushEventsResponse:
        """Reliable and idempotent: events are accepted in sequence, otherwise the ack has the expected number."""
        agent = await agent_caller(context, self._identity)
        tally = Tally(await self._ingest.last_seq(agent.id, EVENTS))
        credential = _CredentialCheck(self._identity, context)
        begins = NOWHERE
        async for request in request_iterator:
            await credential.check()
            _check_agent(agent.id, request.handshake.agent_id)
            if request.WhichOneof("payload") == "handshake":
                begins = _begins(request.handshake)
            if len(request.batch.events) > MAX_EVENTS:
                raise BadMessage(f"a message has at most {MAX_EVENTS} events")
            for event in request.batch.events:
                _check_agent(agent.id, event.meta.agent_id)
                tally.count(event.meta.seq, await self._take_event(agent.id, event, begins))
                if tally.over:
                    return pb.PushEventsResponse(ack=tally.ack())
        return pb.PushEventsResponse(ack=tally.ack())

    async def _take_event(self, agent_id: str, event: pb.Event, begins: int) -> Receipt:
        meta = event.meta
        if meta.seq > MAX_SEQ:
            expected = await self._ingest.last_seq(agent_id, EVENTS) + 1
            return Receipt(Taken.OUT_OF_ORDER, max(expected, 1), f"seq is at most {MAX_SEQ}")
        try:
            check_ids(event.event_id, event.event_type, meta.step_id)
            payload = read_payload(event.payload)
        except BatchInvalid as error:
            return await self._ingest.reject(agent_id, EVENTS, meta.seq, event.event_id, str(error))
        step_event = StepEvent(event.event_id, meta.seq, meta.step_id, event.event_type, payload)
        return await self._ingest.event(agent_id, step_event, begins)


class _CredentialCheck:
    """Periodically checks the credential of a long call, since the agent may have been removed."""

    def __init__(self, identity: Identity, context: Context) -> None:
        self._identity = identity
        self._context = context
        self._asked = time.monotonic()

    async def check(self) -> None:
        """Aborts with UNAUTHENTICATED."""
        now = time.monotonic()
        if now - self._asked >= RECHECK:
            self._asked = now
            await agent_caller(self._context, self._identity)


class LogCall:
    """One ``PushLogs`` call: stores batches concurrently and in order."""

    def __init__(self, ingest: Ingest, agent_id: str, tally: Tally) -> None:
        self.tally = tally
        self.begins = NOWHERE
        self._ingest = ingest
        self._agent_id = agent_id
        self._waiting: list[LogLines] = []
        self._pending: deque[tuple[int, asyncio.Task[Receipt]]] = deque()
        self._before = NOTHING

    async def take(self, batch: pb.LogBatch, ndjson: bool) -> None:
        """Start to store a batch; only waits if too many are in flight."""
        if batch.meta.seq > MAX_SEQ:
            self.tally.count(batch.meta.seq, Receipt(Taken.REJECTED, message=f"seq is at most {MAX_SEQ}"))
            return
        try:
            await self._read(raw_batch(batch, ndjson))
        except BatchInvalid as error:
            await self._store_waiting()
            seq, why = batch.meta.seq, str(error)
            self._send(seq, self._ingest.reject(self._agent_id, LOGS, seq, batch.batch_id, why, self._before))
        while self._pending and (len(self._pending) > IN_FLIGHT or self._pending[0][1].done()):
            await self._settle_first()

    async def finish(self) -> None:
        """Wait until all batches are on disk."""
        await self._store_waiting()
        while self._pending:
            await self._settle_first()

    async def _read(self, batch: RawBatch) -> None:
        """Read and mask the batch, and store what need not wait. Raises :class:`BatchInvalid`."""
        check_ids(batch.batch_id, batch.step_run_id)
        target = await self._ingest.target(batch.step_run_id)
        if target is None or target.agent_id != self._agent_id:
            raise BatchInvalid(f"step run {batch.step_run_id!r} is not this agent's")
        if self._waiting and self._waiting[0].step_run_id != batch.step_run_id:
            await self._store_waiting()
        ready, self._waiting = await self._ingest.read(self._agent_id, batch, target, self._waiting)
        for lines in ready:
            self._send(lines.seq, self._store(lines, target))

    async def _store_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        target = await self._ingest.target(waiting[0].step_run_id)
        for lines in await self._ingest.masked(self._agent_id, waiting):
            self._send(lines.seq, self._store(lines, target))

    def _store(self, lines: LogLines, target: Target | None) -> Coroutine[Any, Any, Receipt]:
        return self._ingest.logs(self._agent_id, lines, target, self._before, self.begins)

    def _send(self, seq: int, taking: Coroutine[Any, Any, Receipt]) -> None:
        # Tasks start in order and the writer is a queue, so concurrent batches keep their order.
        task = asyncio.create_task(taking)
        task.add_done_callback(
            _retrieve_exception
        )  # when one fails the call ends, and the other results are not awaited
        self._pending.append((seq, task))
        self._before = max(self._before, seq)

    async def _settle_first(self) -> None:
        seq, task = self._pending.popleft()
        self.tally.count(seq, await task)


def _retrieve_exception(task: asyncio.Task[Receipt]) -> None:
    if not task.cancelled():
        task.exception()


def raw_batch(batch: pb.LogBatch, ndjson: bool) -> RawBatch:
    """A batch as it was sent."""
    how = _COMPRESSION.get(batch.compression, str(batch.compression))
    meta = batch.meta
    return RawBatch(batch.batch_id, meta.seq, meta.step_id, batch.data, how, batch.raw_size, ndjson)


def check_ids(*ids: str) -> None:
    """Raises :class:`BatchInvalid`."""
    if any(len(id) > MAX_ID for id in ids):
        raise BatchInvalid(f"an id or type has at most {MAX_ID} characters")


def read_payload(payload: struct_pb2.Struct) -> dict[str, Any]:
    """An event's payload as JSON data; whole doubles are integers, since a Struct only has doubles.

    Raises :class:`BatchInvalid`.
    """
    if payload.ByteSize() > MAX_PAYLOAD:
        raise BatchInvalid(f"the payload of an event has at most {MAX_PAYLOAD} bytes")
    left = MAX_VALUES

    def read(value: struct_pb2.Value | struct_pb2.Struct | struct_pb2.ListValue, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise BatchInvalid(
                f"the payload of an event has at most {MAX_VALUES} values, nested {MAX_DEPTH} deep"
            )
        match value:
            case struct_pb2.Struct():
                return {key: read(item, depth + 1) for key, item in value.fields.items()}
            case struct_pb2.ListValue():
                return [read(item, depth + 1) for item in value.values]
        kind = value.WhichOneof("kind")
        if kind in ("struct_value", "list_value"):
            return read(getattr(value, kind), depth)
        return _scalar(None if kind in (None, "null_value") else getattr(value, kind))

    found: dict[str, Any] = read(payload, 0)
    return found


def _scalar(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise BatchInvalid("the payload has a number that JSON cannot express")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _begins(handshake: pb.AgentHandshake) -> int:
    """The number after which the agent says that its counting begins."""
    known = handshake.last_known_seq
    return known if known <= MAX_SEQ else NOWHERE


def _check_agent(agent_id: str, *claims: str) -> None:
    if any(claim and claim != agent_id for claim in claims):
        raise WrongAgent(agent_id)
