"""gateway.v1.GatewayService: log lines and events from agents (arcentra-wire.txt, decisions.md)."""

from __future__ import annotations

import asyncio
import gzip
import io
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeAlias

import grpc
import orjson
import zstandard
from google.protobuf import json_format

from pilothouse.edge.grpc import metadata
from pilothouse.edge.module import RpcService
from pilothouse.engine.intake.ingest import EVENTS, LOGS, NOTHING, Ingest, LogLines, Receipt, Taken
from pilothouse.engine.intake.joining import Joiner
from pilothouse.engine.intake.step_events import StepEvent
from pilothouse.fleet.credentials import agent_caller
from pilothouse.fleet.errors import BadMessage, WrongAgent
from pilothouse.identity.service import Identity
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from pilothouse.wire.gateway.v1 import gateway_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MAX_RAW = 8 << 20
"""A batch unpacks to at most this many bytes."""

MAX_MESSAGE = 16 << 20
"""Bytes of a message."""
ZSTD_PIECE = 128
MAX_SEQ = 2**63 - 1
_PLAIN = (pb.LogBatch.COMPRESSION_UNSPECIFIED, pb.LogBatch.COMPRESSION_NONE)

MAX_ID = 128
"""Characters of the id of a batch, event or step run, and of an event's type."""
MAX_EVENTS, MAX_REJECTED = 10_000, 10_000
"""Events of a message; rejected batches of a call, after which it is answered."""
MAX_PAYLOAD, MAX_FIELDS = 128 << 10, 1_000
"""Bytes of an event's payload besides its texts, which are slow to convert, and how many fields it has."""
MAX_TEXTS = 2 << 20
"""Bytes of the texts of an event's payload: an output that is JSON in a text has up to 1 MiB."""

RECHECK = 2.0
"""Seconds after which an agent in the midst of a call is asked for its right again."""

IN_FLIGHT = 16
"""Batches of one call that may wait for the disk at once."""


class BatchInvalid(Exception):
    """A batch that cannot be decoded; does not affect other batches of the call."""


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
            if request.WhichOneof("payload") == "batch":
                await call.take(request.batch, ndjson)
                if call.tally.out_of_order is not None or len(call.tally.rejected) >= MAX_REJECTED:
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
        async for request in request_iterator:
            await credential.check()
            _check_agent(agent.id, request.handshake.agent_id)
            if len(request.batch.events) > MAX_EVENTS:
                raise BadMessage(f"a message has at most {MAX_EVENTS} events")
            for event in request.batch.events:
                _check_agent(agent.id, event.meta.agent_id)
                tally.count(event.meta.seq, await self._take_event(agent.id, event))
                if tally.out_of_order is not None:
                    return pb.PushEventsResponse(ack=tally.ack())
        return pb.PushEventsResponse(ack=tally.ack())

    async def _take_event(self, agent_id: str, event: pb.Event) -> Receipt:
        meta = event.meta
        if refused := _event_refused(event):
            return await self._ingest.reject(agent_id, EVENTS, meta.seq, event.event_id[:MAX_ID], refused)
        try:
            payload = _whole(json_format.MessageToDict(event.payload))
        except ValueError:  # an infinity or NaN, which JSON cannot express
            message = "the payload has a number that JSON cannot express"
            return await self._ingest.reject(agent_id, EVENTS, meta.seq, event.event_id, message)
        step_event = StepEvent(event.event_id, meta.seq, meta.step_id, event.event_type, payload)
        return await self._ingest.event(agent_id, step_event)


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
        self._ingest = ingest
        self._agent_id = agent_id
        self._joiner = Joiner()
        self._pending: deque[tuple[int, asyncio.Task[Receipt]]] = deque()
        self._before = NOTHING

    async def take(self, batch: pb.LogBatch, ndjson: bool) -> None:
        """Start to store a batch; only waits if too many are in flight."""
        if batch.meta.seq > MAX_SEQ:
            self.tally.count(batch.meta.seq, Receipt(Taken.REJECTED, message=f"seq is at most {MAX_SEQ}"))
            return
        try:
            if len(batch.batch_id) > MAX_ID or len(batch.meta.step_id) > MAX_ID:
                raise BatchInvalid(f"ids have at most {MAX_ID} characters")
            lines = read_batch(batch, ndjson)
        except BatchInvalid as error:
            await self._store(self._joiner.rest())
            seq, id, why = batch.meta.seq, batch.batch_id[:MAX_ID], str(error)
            self._send(seq, self._ingest.reject(self._agent_id, LOGS, seq, id, why, self._before))
        else:
            target = await self._ingest.target(lines.step_run_id)
            await self._store(self._joiner.take(lines, await self._ingest.masker(target)))
        while self._pending and (len(self._pending) > IN_FLIGHT or self._pending[0][1].done()):
            await self._settle_first()

    async def finish(self) -> None:
        """Wait until all batches are on disk."""
        await self._store(self._joiner.rest())
        while self._pending:
            await self._settle_first()

    async def _store(self, batches: list[LogLines]) -> None:
        for lines in batches:
            target = await self._ingest.target(lines.step_run_id)
            shown = await self._ingest.masked(lines, target)
            self._send(lines.seq, self._ingest.logs(self._agent_id, shown, target, self._before))

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


def _whole(value: Any) -> Any:
    """Convert whole doubles back to integers: a Struct only has doubles."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value


def read_batch(batch: pb.LogBatch, ndjson: bool) -> LogLines:
    """Unpack a batch into lines. Raises :class:`BatchInvalid`."""
    text = _unpack(batch).decode("utf-8", errors="replace").replace("\x00", "\ufffd")
    lines = text.split("\n")
    open_end = lines[-1] != ""
    if not open_end:
        lines.pop()
    seq, step = batch.meta.seq, batch.meta.step_id
    if not ndjson:
        plain = [line.removesuffix("\r") for line in lines]
        return LogLines(batch.batch_id, seq, step, plain, open_end=open_end)
    found = LogLines(batch.batch_id, seq, step, [])
    for line in lines:
        _read_log(line, found)
    return found


def _read_log(line: str, into: LogLines) -> None:
    try:
        log = orjson.loads(line)
        content, stream, level = log.get("content", ""), log.get("stream", "stdout"), log.get("level", "")
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise BatchInvalid("with pilot-log-format: ndjson every line is one JSON object") from error
    for part in str(content).replace("\x00", "\ufffd").split("\n"):
        if stream == "stderr":
            into.stderr.append(len(into.lines))
        if level and level != "info":
            into.levels[len(into.lines)] = str(level).replace("\x00", "\ufffd")
        into.lines.append(part)


def _unpack(batch: pb.LogBatch) -> bytes:
    data = batch.data
    try:
        if batch.compression == pb.LogBatch.COMPRESSION_GZIP:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_RAW + 1)
        elif batch.compression == pb.LogBatch.COMPRESSION_ZSTD:
            data = _unpack_zstd(data)
        elif batch.compression not in _PLAIN:
            raise BatchInvalid(f"compression {batch.compression} is not known")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise BatchInvalid(f"the batch cannot be unpacked: {error}") from error
    if len(data) > MAX_RAW:
        raise BatchInvalid(f"the batch unpacks to more than {MAX_RAW} bytes")
    if batch.raw_size and batch.raw_size != len(data):
        raise BatchInvalid(f"raw_size is {batch.raw_size}, but the batch has {len(data)} bytes")
    return data


def _unpack_zstd(data: bytes) -> bytes:
    # In small pieces, so that a decompression bomb is detected early; a truncated frame has no end.
    found = bytearray()
    while data:
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_RAW).decompressobj()
        used = 0
        while used < len(data) and not unpacker.eof and len(found) <= MAX_RAW:
            found += unpacker.decompress(data[used : used + ZSTD_PIECE])
            used += ZSTD_PIECE
        if len(found) > MAX_RAW:
            break
        if not unpacker.eof:
            raise BatchInvalid("the batch cannot be unpacked: it is cut off")
        data = unpacker.unused_data + data[used:]  # there may be several frames
    return bytes(found)


def _event_refused(event: pb.Event) -> str:
    """Why an event is out of bounds; empty if it is not."""
    if any(len(word) > MAX_ID for word in (event.event_id, event.meta.step_id, event.event_type)):
        return f"ids and types of events have at most {MAX_ID} characters"
    fields = event.payload.fields
    if len(fields) > MAX_FIELDS:
        return f"a payload has at most {MAX_FIELDS} fields"
    texts = rest = 0
    for name, value in fields.items():
        if value.WhichOneof("kind") == "string_value":
            texts += len(value.string_value)
        else:
            rest += value.ByteSize()
        texts += len(name)
    if texts > MAX_TEXTS:
        return f"the texts of a payload have at most {MAX_TEXTS} characters"
    if rest > MAX_PAYLOAD:
        return f"a payload has at most {MAX_PAYLOAD} bytes besides its texts"
    return ""


def _check_agent(agent_id: str, *claims: str) -> None:
    if any(claim and claim != agent_id for claim in claims):
        raise WrongAgent(agent_id)
