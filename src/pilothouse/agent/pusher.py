"""Sends a spool to the server, in order, again and again until it is acknowledged.

One call at a time. Records stream into it as they come; it is half-closed after a second, after a MiB, or at
once when a step that has ended waits for its ack. What no ack covered goes out first in the next call, under
the same sequence numbers and ids, so repeating has no effect (decisions.md, "Arcentra", PushLogs).
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
HURRY = 0.005  # seconds a call goes on when a step already waits for its ack, so that others share it
RETRY_WRITE = 1.0  # seconds between tries while the disk takes no more

log = structlog.get_logger("agent.pusher")


class Uplink(Protocol):
    """The link, as far as a pusher needs it. `registrations` counts them: each may reset the numbering."""

    agent_id: str
    registrations: int
    connected: asyncio.Event

    @property
    def gateway(self) -> GatewayServiceStub: ...
    @property
    def metadata(self) -> Metadata: ...


class Pusher(Generic[Request]):
    """One spool on its way to one RPC."""

    def __init__(self, spool: Spool, wire: Wire[Request], link: Uplink, freed: asyncio.Event) -> None:
        self._spool = spool
        self._wire = wire
        self._link = link
        self._freed = freed  # set when records have left the spool
        self._more = asyncio.Event()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap by index
        self._hurried = False
        self._unwritten: deque[bytes] = deque()  # while the disk is full
        self._sent: list[tuple[int, Mark]] = []  # per request of this call: its last seq, and what follows it
        self._aligned = 0  # the registration whose numbering is agreed upon
        self._singly = False  # one record per call, to find out which of ours the server has

    # -- what steps use ---------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        return self._spool.pending_bytes

    @property
    def blocked(self) -> bool:
        """The disk takes no more; what was appended since is kept in memory and must stay little."""
        return bool(self._unwritten)

    def append(self, payload: bytes) -> int:
        """Spool a record and return its index, to be given to `acked`."""
        self._unwritten.append(payload)
        index = self._spool.end + len(self._unwritten) - 1
        if len(self._unwritten) == 1:
            self._write()
        return index

    async def acked(self, index: int) -> None:
        """Until the server has this record and all before it."""
        index = min(index, self._spool.end + len(self._unwritten) - 1)  # a power failure may have taken it
        if index < self._spool.head.index:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (index, id(done), done))
        self._more.set()
        await done

    def hurry(self) -> None:
        """Have the server acknowledge what it has: somebody waits for room."""
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
        """Until cancelled."""
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
        """Once per registration: ask which number the server expects next, and agree."""
        registration = self._link.registrations
        if self._aligned == registration:
            return
        ack = await self._call(streaming=False)
        expected = max(ack.expected_seq, ack.last_accepted_seq + 1, 1)
        if expected < self._spool.seq(self._spool.head.index):
            self._spool.renumber(expected)  # it has begun anew, or lost what it had acknowledged
        elif expected > self._spool.seq(self._spool.end):
            self._spool.skip_to_seq(expected)  # a power failure here took what had already been sent
        self._aligned = registration
        self._singly = False

    async def _push(self) -> bool:
        """One call. False: nothing came of it, and it is to be tried again later."""
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
            pass  # the server has answered before we were done; its answer says why
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
        """Whether somebody waits for the ack of what lies before the mark."""
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
        """Drop what the server has, up to this sequence number. False: nothing of this call."""
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
        """Numbers differ. Nothing is dropped that the server has not confirmed.

        It expects an older number than our first: ours follow from there. It expects a later one: some of ours
        it has, under the same ids, and takes again without effect; what it refuses alone, it does not have.
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
