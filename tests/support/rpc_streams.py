"""Clients of ``stream.v1.StreamService``, made of the generated stubs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from pilothouse.wire.stream.v1 import stream_pb2 as pb
from pilothouse.wire.stream.v1.stream_pb2_grpc import StreamServiceStub
from support.server import Server
from support.waiting import PATIENCE

PENDING, QUEUED, RUNNING, SUCCESS, FAILED, CANCELLED, TIMEOUT, SKIPPED = range(1, 9)
"""steprun.v1.StepRunStatus."""

_METHODS = {
    pb.StreamStepRunStatusRequest: "StreamStepRunStatus",
    pb.StreamJobStatusRequest: "StreamJobStatus",
    pb.StreamPipelineStatusRequest: "StreamPipelineStatus",
    pb.StreamAgentStatusRequest: "StreamAgentStatus",
    pb.StreamEventsRequest: "StreamEvents",
}


class Call:
    """One open stream. ``cursor`` is what to come back with."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.cursor = ""
        self.unread: list[Any] = []

    async def opened(self) -> Call:
        """The server has found what it is about; whatever happens from here on will come."""
        metadata = await asyncio.wait_for(self._call.initial_metadata(), PATIENCE)
        self.cursor = dict(metadata).get("pilot-cursor", self.cursor)
        return self

    async def next(self, count: int = 1) -> list[Any]:
        """So many messages, which must come."""
        found = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                message = await self._call.read()
                assert message is not grpc.aio.EOF, (await self.end(), found)
                self.cursor = message.cursor or self.cursor
                found.append(message)
        return found

    async def rest(self) -> list[Any]:
        """All messages to the end, which must come and be a good one."""
        found = []
        async with asyncio.timeout(PATIENCE):
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self.cursor = message.cursor or self.cursor
                found.append(message)
        code, details = await self.end()
        assert code is grpc.StatusCode.OK, details
        return found

    async def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a moment. The call is of no use afterwards."""
        reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({reading}, timeout=seconds)
        reading.cancel()
        return not done

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Its status, which must come; what comes before it is in ``unread``."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while (message := await self._call.read()) is not grpc.aio.EOF:
                    self.unread.append(message)
            return await self._call.code(), await self._call.details()

    def cancel(self) -> None:
        """Leave."""
        self._call.cancel()


class Streams:
    """One client on one connection. Requests are those of ``stream_pb2``."""

    def __init__(self, server: Server, token: str = "") -> None:
        self.server = server
        self.token = token or server.admin
        self._channel = grpc.aio.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)])
        self._stub: Any = StreamServiceStub(self._channel)

    def follow(self, request: Any, cursor: str = "", token: str | None = None) -> Call:
        """Start a call; ``token`` empty: unauthenticated."""
        given = self.token if token is None else token
        metadata = [("authorization", f"Bearer {given}")] if given else []
        if cursor:
            metadata.append(("pilot-cursor", cursor))
        method = getattr(self._stub, _METHODS[type(request)])
        return Call(method(request, metadata=metadata, wait_for_ready=True))

    async def refused(self, request: Any, cursor: str = "", token: str | None = None) -> tuple[str, str]:
        """Status and details of a call that must be refused at once."""
        call = self.follow(request, cursor, token)
        code, details = await call.end()
        return code.name, details

    async def close(self) -> None:
        """End every call and the connection."""
        await self._channel.close()


@contextlib.asynccontextmanager
async def streams(server: Server, token: str = "") -> AsyncIterator[Streams]:
    """A client that is closed afterwards."""
    made = Streams(server, token)
    try:
        yield made
    finally:
        await made.close()
