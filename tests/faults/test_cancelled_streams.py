"""Ten thousand streams that are cancelled in whatever state they are: nothing of them stays in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support.faults.fleet import LONG, chance
from support.live_run import followers
from support.server import Server, running, spec_for
from support.waiting import eventually
from support.wire_table import table

WARM, MANY = 1_500, 30_000 if LONG else 10_000
AT_ONCE = 40
MOST = 12
"""MiB: less than 1.3 KiB of each stream."""
METHODS = (
    "StreamStepRunStatus",
    "StreamJobStatus",
    "StreamPipelineStatus",
    "StreamAgentStatus",
    "StreamEvents",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("cancelled"), agent_offline_after=300) as server:
        yield server


def memory(server: Server) -> int:
    """The resident memory of the server in MiB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10


async def cancelled(
    channel: grpc.aio.Channel, metadata: Any, run_id: str, count: int, rng: random.Random
) -> None:
    """Open so many streams, and cancel each: at once, when it has begun, or after its first message."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, patience: float) -> None:
        async with turns:
            request = table().message(f"stream.v1.{name}Request")()
            if name != "StreamAgentStatus" and rng.random() < 0.5:
                getattr(request, _IDS[name]).append(run_id) if _IDS[name] in _MANY else setattr(
                    request, _IDS[name], run_id
                )
            call = table().rpc(channel, f"stream.v1.StreamService/{name}")(request, metadata=metadata)
            if patience > 0.5:
                await call.initial_metadata()
            elif patience > 0.25:
                await asyncio.sleep(patience / 100)
            call.cancel()

    await asyncio.gather(
        *(one(rng.choice(METHODS), rng.random()) for _ in range(count)), return_exceptions=True
    )


_MANY = ("pipeline_run_ids", "resource_ids")
_IDS = {
    "StreamStepRunStatus": "pipeline_run_id",
    "StreamJobStatus": "pipeline_run_id",
    "StreamPipelineStatus": "pipeline_run_ids",
    "StreamEvents": "resource_ids",
}


async def test_ten_thousand_cancelled_streams_leave_no_memory_behind(server: Server) -> None:
    rng = chance("cancelled streams")
    run_id = server.trigger(server.pipeline("nobody", spec_for("nobody")))
    metadata = (("authorization", f"Bearer {server.admin}"),)
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        await cancelled(channel, metadata, run_id, WARM, rng)
        await eventually(lambda: followers(server) == 0)
        before = memory(server)
        await cancelled(channel, metadata, run_id, MANY, rng)
        await eventually(lambda: followers(server) == 0)
        await eventually(lambda: memory(server) - before <= MOST)
        call = table().rpc(channel, "stream.v1.StreamService/StreamPipelineStatus")
        request = table().message("stream.v1.StreamPipelineStatusRequest")(pipeline_run_ids=[run_id])
        answers = call(request, metadata=metadata)
        assert (await answers.read()).run_id == run_id, "and the next one is served"
        answers.cancel()
    assert server.failures() == []
