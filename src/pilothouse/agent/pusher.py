"""Sends a spool to the server, in order, with retries until it is acknowledged.

There is one call at a time. Records are streamed as they are added; the call is half-closed after a second, after a
MiB, or immediately when an ended step waits for its ack. Unacknowledged records are sent again in the next call, with
the same sequence numbers and ids, so repeating them has no effect (decisions.md, "Arcentra", PushLogs).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from typing import Generic, Protocol

import structlog
from grpc.aio import AioRpcError, StreamUnaryCall

from pilothouse.agent.errors import SpoolFull
from pilothouse.agent.spool import Mark, Spool
from pilothouse.agent.wires import Metadata, PushResponse, Record, Request, Wire
from pilothouse.wire.backoff import Backoff
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from pilothouse.wire.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

CALL_SECONDS = 1.0
CALL_BYTES = 1 << 20
REQUEST_BYTES = 256 << 10
HURRY = 0.005  # seconds that a call stays open although a step waits for its ack, to be shared by others
RETRY_WRITE = 1.0  # seconds between attempts to write to a full disk

log = structlog.get_logger("agent.pusher")


class Uplink(Protocol):
    """The part of the link that a pusher uses. `registrations`: their number; each may reset the sequence numbers."""

    agent_id: str
    registrations: int
    connected: asyncio.Event

    @property
    def gateway(self) -> GatewayServiceStub: ...
    @property
    def metadata(self) -> Metadata: ...


class Pusher(Generic[Request]):
    """Sends one spool to one RPC."""

    def __init__(self, spool: Spool, wire: Wire[Request], link: Uplink, freed: asyncio.Event) -> None:
        self._spool = spool
        self._wire = wire
        self._link = link
        self._freed = freed  # set when records have left the spool
        self._more = asyncio.Event()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap by index
        self._hurried = False
        self._unwritten: deque[bytes] = deque()  # while the disk is full
        self._sent: list[
            tuple[int, Mark]
        ] = []  # per request of this call: its last sequence number and the mark after it
        self._aligned = 0  # the registration for which sequence numbers were synchronized
        self._singly = False  # one record per call, to find out which records the server has

    # -- what steps use ---------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        return self._spool.pending_bytes

    @property
    def blocked(self) -> bool:
        """Whether the disk is full; records appended since then are in memory, so there should be few."""
        return bool(self._unwritten)

    def append(self, payload: bytes) -> int:
        """Append a record to the spool; returns its index for `acked`."""
        self._unwritten.append(payload)
        index = self._spool.end + len(self._unwritten) - 1
        if len(self._unwritten) == 1:
            self._write()
        return index

    async def acked(self, index: int) -> None:
        """Wait until the server has acknowledged this record and all before it."""
        index = min(index, self._spool.end + len(self._unwritten) - 1)  # it may be lost after a power failure
        if index < self._spool.head.index:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (index, id(done), done))
        self._more.set()
        await done

    def hurry(self) -> None:
        """Request an early acknowledgement, since a step waits for space in the spool."""
        self._hurried = True
        self._more.set()

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._spool.append(self._unwritten[0])
                self._unwritten.popleft()
        except SpoolFull as full:
            log.error("spool.full", rpc=self._wire.name, reason=str(full))
            asyncio.get_running_loop().call_later(RETRY_WRITE, self._write)
        self._more.set()
        self._freed.set()

    # -- sending ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send records until cancelled."""
        backoff = Backoff()
        while True:
            await self._something_to_send()
            await self._link.connected.wait()
            try:
                await self._align()
                settled = await self._push()
            except AioRpcError as error:
                log.info(
                    "agent.push_failed", rpc=self._wire.name, code=error.code().name, reason=error.details()
                )
                settled = False
            except SpoolFull as full:
                log.error("spool.full", rpc=self._wire.name, reason=str(full))
                settled = False
            if settled:
                backoff.reset()
            else:
                await backoff.sleep()

    async def _something_to_send(self) -> None:
        while not self._spool.pending:
            self._more.clear()
            await self._more.wait()

    async def _align(self) -> None:
        """Synchronize sequence numbers with the server, once per registration."""
        registration = self._link.registrations
        if self._aligned == registration:
            return
        ack = await self._call(streaming=False)
        expected = max(ack.expected_seq, ack.last_accepted_seq + 1, 1)
        if expected < self._spool.seq(self._spool.head.index):
            self._spool.renumber(
                expected
            )  # the server starts anew, or has lost records that it had acknowledged
        elif expected > self._spool.seq(self._spool.end):
            self._spool.skip_to_seq(
                expected
            )  # records that were already sent were lost here in a power failure
        self._aligned = registration
        self._singly = False

    async def _push(self) -> bool:
        """Make one call. False: nothing was acknowledged; to be retried later."""
        ack = await self._call(streaming=True)
        if ack.status == pb.IngestAck.STATUS_OUT_OF_ORDER:
            self._out_of_order(max(ack.expected_seq, 1), ack.message)
            return False
        covered = max((ack.last_accepted_seq, *ack.rejected_seqs))
        if ack.status == pb.IngestAck.STATUS_REJECTED and not ack.rejected_seqs:
            covered = self._sent[-1][0] if self._sent else 0
        if ack.rejected_seqs or ack.status == pb.IngestAck.STATUS_REJECTED:
            seqs = list(ack.rejected_seqs)[:20]
            log.warning("agent.push_rejected", rpc=self._wire.name, seqs=seqs, reason=ack.message)
        return self._release(covered)

    async def _call(self, streaming: bool) -> pb.IngestAck:
        self._sent.clear()
        call = self._wire.open(self._link.gateway, self._link.metadata)
        try:
            last = max(0, self._spool.seq(self._spool.head.index) - 1)
            await call.write(self._wire.hello(self._link.agent_id, last))
            if streaming:
                await self._stream(call)
            await call.done_writing()
        except asyncio.InvalidStateError:
            pass  # the server has answered early; its answer contains the reason
        try:
            return (await call).ack
        finally:
            call.cancel()

    async def _stream(self, call: StreamUnaryCall[Request, PushResponse]) -> None:
        now = asyncio.get_running_loop().time
        ends_at, size, mark = now() + CALL_SECONDS, 0, self._spool.head
        while size < CALL_BYTES and now() < ends_at:
            if self._awaited(mark):
                ends_at = min(ends_at, now() + HURRY)
            self._more.clear()
            records, mark = self._next_records(mark)
            if records:
                await call.write(self._wire.pack(self._link.agent_id, records))
                self._sent.append((records[-1][0], mark))
                size += sum(len(payload) for _, payload in records)
                if self._singly:
                    return
            elif self._awaited(mark):
                return
            else:
                await self._more_until(ends_at - now())

    def _awaited(self, mark: Mark) -> bool:
        """Whether the ack of a record before the mark is awaited."""
        return self._hurried or bool(self._waiting and self._waiting[0][0] < mark.index)

    def _next_records(self, mark: Mark) -> tuple[list[Record], Mark]:
        records: list[Record] = []
        size = 0
        while len(records) < (1 if self._singly else self._wire.group) and size < REQUEST_BYTES:
            found = self._spool.read(mark)
            if found is None:
                break
            payload, mark = found
            records.append((self._spool.seq(mark.index - 1), payload))
            size += len(payload)
        return records, mark

    async def _more_until(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._more.wait()

    # -- acks -------------------------------------------------------------------------------------------

    def _release(self, covered: int) -> bool:
        """Drop acknowledged records up to this sequence number. False: it covers no record of this call."""
        marks = [mark for seq, mark in self._sent if seq <= covered]
        if not marks:
            return not self._sent
        self._spool.release(marks[-1])
        while self._waiting and self._waiting[0][0] < self._spool.head.index:
            done = heapq.heappop(self._waiting)[2]
            if not done.done():
                done.set_result(None)
        self._freed.set()
        self._hurried = False
        self._singly = self._singly and self._spool.pending
        return True

    def _out_of_order(self, expected: int, message: str) -> None:
        """Handle a sequence number mismatch. Records that the server has not acknowledged are never dropped.

        If the server expects a lower number than our first, records are renumbered from there. If it expects a higher
        one, it already has some of our records under the same ids and accepts them again without effect. Records are
        then sent one per call; one that is refused alone is not on the server.
        """
        first = self._spool.seq(self._spool.head.index)
        log.warning(
            "agent.push_out_of_order", rpc=self._wire.name, first=first, expected=expected, reason=message
        )
        if self._singly or expected < first:
            self._spool.renumber(expected)
            self._singly = False
        else:
            self._singly = True
