"""Jobs that fail are refusals with stable codes, over REST in both formats and over gRPC."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from fastapi import FastAPI

from identity_kit import running
from pilothouse.edge.limits import RateLimits, RateLimitSettings
from pilothouse.edge.strangers import Strangers
from pilothouse.edge.web import public
from pilothouse.server.rpc_gate import RpcGate, Rule
from pilothouse.workers.limits import MIB, Limits
from pilothouse.workers.pool import Pool
from pilothouse.workers.turns import Bounds
from support import worker_jobs as jobs
from support.waiting import PATIENCE

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # test_pool.py covers both

MakePool = Callable[..., Pool]
Job = Callable[[], Awaitable[object]]
FAST = Limits(cpu=0.2, wall=5, memory=64 * MIB, result=1000)
CODES = {
    "caller queue": ("CALLER_QUEUE_FULL", 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "queue": ("SERVER_BUSY", 503, grpc.StatusCode.UNAVAILABLE),
    "cpu": ("INPUT_TOO_COSTLY", 400, grpc.StatusCode.INVALID_ARGUMENT),
    "wall": ("INPUT_TOO_COSTLY", 400, grpc.StatusCode.INVALID_ARGUMENT),
    "memory": ("INPUT_TOO_COSTLY", 400, grpc.StatusCode.INVALID_ARGUMENT),
    "result": ("INPUT_TOO_COSTLY", 400, grpc.StatusCode.INVALID_ARGUMENT),
    "segfault": ("WORKER_CRASHED", 503, grpc.StatusCode.UNAVAILABLE),
    "kill": ("WORKER_CRASHED", 503, grpc.StatusCode.UNAVAILABLE),
    "defect": ("INTERNAL_ERROR", 500, grpc.StatusCode.INTERNAL),
}
RETRIED = {"caller queue", "queue"}


@asynccontextmanager
async def failing(make_pool: MakePool, gate: Callable[..., Any]) -> AsyncIterator[dict[str, Job]]:
    """By name, jobs that fail. The queues are full for as long as this is entered."""
    pool = make_pool(jobs.burn_python, jobs.gate, jobs.hog, jobs.both, jobs.crash, jobs.raise_with)
    stands = gate()
    narrow = make_pool(jobs.gate, jobs.add, workers=1, bounds=Bounds(per_caller=1, total=2))
    blocking = [asyncio.create_task(narrow.run(jobs.gate, stands.path, caller="a"))]
    descriptor = await stands.reached()
    blocking += [asyncio.create_task(narrow.run(jobs.add, 1, 1, caller=each)) for each in "ab"]
    await asyncio.sleep(0)
    never = gate("never")
    yield {
        "caller queue": lambda: narrow.run(jobs.add, 1, 1, caller="a"),
        "queue": lambda: narrow.run(jobs.add, 1, 1, caller="c"),
        "cpu": lambda: pool.run(jobs.burn_python, caller="a", limits=FAST),
        "wall": lambda: pool.run(jobs.gate, never.path, caller="a", limits=Limits(wall=0.1)),
        "memory": lambda: pool.run(jobs.hog, 100 * MIB, caller="a", limits=FAST),
        "result": lambda: pool.run(jobs.both, 2000, caller="a", limits=FAST),
        "segfault": lambda: pool.run(jobs.crash, int(signal.SIGSEGV), caller="a"),
        "kill": lambda: pool.run(jobs.crash, int(signal.SIGKILL), caller="a"),
        "defect": lambda: pool.run(jobs.raise_with, "hunter2-inside", caller="a"),
    }
    os.close(descriptor)
    await asyncio.gather(*blocking)


async def test_over_rest(make_pool: MakePool, gate: Callable[..., Any], tmp_path: Path) -> None:
    async with failing(make_pool, gate) as run, running(tmp_path) as stack:
        add_routes(stack.app, run)
        for name, (code, status, _) in CODES.items():
            plain = await stack.call("GET", f"/work/{name}")
            assert (plain.status_code, plain.json()["code"]) == (status, code), plain.text
            enveloped = await stack.call("GET", f"/pipelines/work/{name}")
            body = enveloped.json()
            assert (body["code"], body["errorCode"]) == (status, code), body
            for answer in (plain, enveloped):
                check_retry(answer, name)
                assert "hunter2-inside" not in answer.text


def add_routes(app: FastAPI, run: dict[str, Job]) -> None:
    async def work(name: str) -> str:
        return str(await run[name]())

    for path in ("/api/v1/work/{name}", "/api/v1/pipelines/work/{name}"):
        app.add_api_route(path, work, dependencies=[public()])


def check_retry(answer: httpx.Response, name: str) -> None:
    assert (answer.headers.get("retry-after") == "1") == (name in RETRIED)
    assert ("retry_after" in answer.json()) == (answer.status_code == 429)


async def test_over_grpc(make_pool: MakePool, gate: Callable[..., Any]) -> None:
    async with failing(make_pool, gate) as run, served(run) as channel:
        for name, (code, _, status) in CODES.items():
            for call in (channel.unary_unary("/test.Work/One"), channel.unary_stream("/test.Work/Stream")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    answer = call(name.encode(), timeout=PATIENCE)
                    if isinstance(answer, grpc.aio.UnaryUnaryCall):
                        await answer
                    else:
                        await answer.read()
                trailing = dict(caught.value.trailing_metadata() or ())
                assert (caught.value.code(), trailing["pilot-code"]) == (status, code), caught.value
                assert (trailing.get("retry-after") == "1") == (name in RETRIED)
                assert str(caught.value.details()).startswith(f"{code}: ")
                assert "hunter2-inside" not in str(caught.value.details())


@asynccontextmanager
async def served(run: dict[str, Job]) -> AsyncIterator[grpc.aio.Channel]:
    """A gRPC server whose calls run the job of the name that they are given."""

    async def one(request: bytes, context: Any) -> bytes:
        return str(await run[request.decode()]()).encode()

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    limits = RateLimits(RateLimitSettings("off", "off", "off"))
    rules = {f"/test.Work/{name}": Rule(open=True) for name in handlers}
    anyone: Any = None
    server = grpc.aio.server(interceptors=[RpcGate(anyone, limits, Strangers(limits), rules)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Work", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)
