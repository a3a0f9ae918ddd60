"""A minimal agent: registers, connects, and either completes every step immediately or pushes lines on command.

``python -m bench.agent {"grpc", "registration", "slots", "noop", "agents"}``. It runs steps with the selector
``only: bench``; one process can hold several agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import orjson
import uvloop
import zstandard

from bench.server import execute_commands, standard_input
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1.agent_pb2_grpc import AgentServiceStub
from pilothouse.wire.gateway.v1 import gateway_pb2 as gw
from pilothouse.wire.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from pilothouse.wire.steprun.v1 import steprun_pb2 as steprun

NAME = "bench"
HEARTBEAT = 5.0
BATCH_LINES = 1000
"""Size of one batch of ``pilot agent`` under load (``agent/log_batches.py``)."""


class Agent:
    """One connected agent; ``noop``: acknowledges and completes each step on receipt."""

    def __init__(self, channel: grpc.aio.Channel, name: str, token: str, noop: bool) -> None:
        self._name = name
        self._agents = AgentServiceStub(channel)
        self._gateway = GatewayServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._noop = noop
        self._outbox: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
        self._given: asyncio.Queue[str] = asyncio.Queue()
        self._seq = 0
        self._requests: list[gw.PushLogsRequest] = []
        self.done = 0

    async def connect(self) -> None:
        """Keep a Connect call open."""
        beating = asyncio.create_task(self._beat())
        async for command in self._agents.Connect(self._outgoing(), metadata=self._metadata):
            if command.WhichOneof("payload") == "task_dispatch":
                self._acknowledge(command.command_id)
                for task in command.task_dispatch.step_runs:
                    self._take(task.step_run_id)
        beating.cancel()

    async def task(self) -> dict[str, Any]:
        """Wait for the next assigned step."""
        return {"step_run": await self._given.get()}

    async def finish(self, step_run: str) -> dict[str, Any]:
        """Report a step's end."""
        self._report(step_run)
        return {}

    async def load(self, step_run: str, lines: int, width: int, ndjson: bool) -> dict[str, Any]:
        """Prepare batches in advance; ndjson is compressed, as in ``pilot agent``."""
        made = [f"{number:08d} {'x' * width}"[:width] for number in range(lines)]
        self._requests = [
            self._batch(step_run, made[at : at + BATCH_LINES], ndjson) for at in range(0, lines, BATCH_LINES)
        ]
        return {"bytes": sum(len(r.batch.data) for r in self._requests)}

    async def push(self, ndjson: bool) -> dict[str, Any]:
        """Send the prepared batches in one PushLogs call; the response confirms that they are on disk."""
        more = (("pilot-log-format", "ndjson"),) if ndjson else ()
        began = time.monotonic()
        answer = await self._gateway.PushLogs(self._all(), metadata=(*self._metadata, *more))
        return {
            "accepted": answer.ack.status == gw.IngestAck.STATUS_ACCEPTED,
            "seconds": time.monotonic() - began,
        }

    async def print_times(self, step_run: str, count: int, every: float) -> dict[str, Any]:
        """Push a line per interval with its time (monotonic clock, ns)."""

        async def lines() -> AsyncIterator[gw.PushLogsRequest]:
            for _ in range(count):
                yield self._batch(step_run, [f"printed={time.monotonic_ns()}."], False)
                await asyncio.sleep(every)

        await self._gateway.PushLogs(lines(), metadata=self._metadata)
        return {}

    async def _all(self) -> AsyncIterator[gw.PushLogsRequest]:
        for request in self._requests:
            yield request

    def _batch(self, step_run: str, lines: list[str], ndjson: bool) -> gw.PushLogsRequest:
        self._seq += 1
        stamp = int(time.time())
        if ndjson:
            logs = [{"content": line, "stream": "stdout", "timestamp": stamp} for line in lines]
            data = b"".join(orjson.dumps(log, option=orjson.OPT_APPEND_NEWLINE) for log in logs)
        else:
            data = "".join(line + "\n" for line in lines).encode()
        request = gw.PushLogsRequest()
        batch = request.batch
        batch.batch_id, batch.raw_size = f"batch-{self._seq}", len(data)
        batch.meta.step_id, batch.meta.seq, batch.meta.agent_id = step_run, self._seq, self._name
        batch.compression = gw.LogBatch.COMPRESSION_ZSTD if ndjson else gw.LogBatch.COMPRESSION_NONE
        batch.data = zstandard.ZstdCompressor(level=1).compress(data) if ndjson else data
        return request

    def _take(self, step_run: str) -> None:
        if self._noop:
            self._report(step_run)
        else:
            self._given.put_nowait(step_run)

    def _acknowledge(self, command: str) -> None:
        ack = pb.TaskAck(command_id=command, status=pb.ACK_STATUS_OK)
        self._outbox.put_nowait(pb.ConnectRequest(agent_id=self._name, task_ack=ack))

    def _report(self, step_run: str) -> None:
        status = pb.TaskStatus(step_run_id=step_run, status=steprun.STEP_RUN_STATUS_SUCCESS)
        self._outbox.put_nowait(pb.ConnectRequest(agent_id=self._name, task_status=status))
        self.done += 1

    async def _beat(self) -> None:
        while True:
            self._outbox.put_nowait(pb.ConnectRequest(agent_id=self._name, heartbeat=pb.ConnectHeartbeat()))
            await asyncio.sleep(HEARTBEAT)

    async def _outgoing(self) -> AsyncIterator[pb.ConnectRequest]:
        while True:
            yield await self._outbox.get()


async def registered(given: dict[str, Any], stack: contextlib.AsyncExitStack, name: str) -> Agent:
    """Register a new agent on its own channel."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(given["grpc"], options=options))
    register = pb.RegisterRequest(
        agent_id=name,
        registration_token=given["registration"],
        max_concurrent_step_runs=given["slots"],
        labels={"only": NAME},
        platform="process",
    )
    answer = await AgentServiceStub(channel).Register(register)
    return Agent(channel, name, answer.auth_token, given["noop"])


async def main(given: dict[str, Any]) -> None:
    """Run until stdin is closed."""
    async with contextlib.AsyncExitStack() as stack:
        names = [NAME, *(f"{NAME}-{number}" for number in range(1, given.get("agents", 1)))]
        agents = [await registered(given, stack, name) for name in names]
        agent = agents[0]
        connected = [asyncio.create_task(each.connect()) for each in agents]

        async def counted() -> dict[str, Any]:
            return {"done": sum(each.done for each in agents)}

        print(json.dumps({"agent": NAME}), flush=True)
        await execute_commands(
            await standard_input(),
            {
                "task": agent.task,
                "finish": agent.finish,
                "counted": counted,
                "load": agent.load,
                "push": agent.push,
                "print_times": agent.print_times,
            },
        )
        for task in connected:
            task.cancel()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
