"""Viewers: all that only reads, asked in the worst way."""

from __future__ import annotations

import asyncio
import contextlib
import json

import grpc.aio

from faults.neighbours import payloads
from faults.neighbours.ground import Ground, all_of, message, status
from faults.neighbours.table import abuse
from support.faults.readers import PING, masked, ws_request
from support.wire_table import table

LIMIT = ("429",)
WORK = ("429 CALLER_QUEUE_FULL", "429 RATE_LIMIT_EXCEEDED", "400 INPUT_TOO_COSTLY", "503")

WAITING = 200.0
"""MiB of heavy specs that wait for a worker."""


async def _validated(ground: Ground, spec: object, token: str) -> None:
    await ground.ask("POST", "pipelines/spec/validate", token, {"spec": spec})


@abuse("a heavy spec", "viewer", WORK, room=WAITING)
async def heavy_spec(ground: Ground) -> None:
    """A third of what a spec may be, checked again and again by one viewer: more at once than may wait."""
    token = ground.kept.setdefault("token", ground.token("viewer"))
    await all_of(_validated(ground, payloads.heavy_spec(30), token) for _ in range(44))


@abuse("heavy specs of ten", "viewer", room=WAITING)
async def heavy_specs(ground: Ground) -> None:
    """By ten viewers at the same time."""
    await all_of(_validated(ground, payloads.heavy_spec(), ground.token("viewer")) for _ in range(10))


@abuse("bombs", "viewer", ("200", "400", "429"))
async def bombs(ground: Ground) -> None:
    """Aliases, nesting, patterns and expressions that grow when they are read."""
    await all_of((_validated(ground, spec, ground.token("viewer")) for spec in payloads.bombs()), 6)


@abuse("deep JSON", "viewer", ("400", "403", "413", "429"))
async def deep_json(ground: Ground) -> None:
    """100,000 levels, and 70,000 keys, to every route that takes JSON."""
    from faults.neighbours.abuses import paths

    for body in (payloads.deep_json(), payloads.wide_json()):
        await all_of((ground.ask(m, path, ground.token("viewer"), body) for m, path in paths("json")), 8)


@abuse("parameters", "viewer", ("400", "410", "429"), cut=True)
async def parameters(ground: Ground) -> None:
    """Cursors and filters of 60 KB, thousands of parameters, pages at the end of the world."""
    from faults.neighbours.abuses import paths

    queries = (
        "?cursor=" + "1." * 30_000,
        "?" + "&".join(f"cursor={n}" for n in range(6000)),
        "?page=1000000&limit=100&pageSize=100",
        "?type=" + "*" * 30_000 + "&stream=" + "x" * 20_000,
        "?" + "&".join(f"q{n}" for n in range(10_000)),
    )
    waves = (
        ground.ask(m, path + query, ground.token("viewer")) for m, path in paths("query") for query in queries
    )
    await all_of(waves, 20)


async def _a_long_log(ground: Ground) -> None:
    agent, steps = await ground.rogue()
    ground.kept["agent"], ground.kept["step"] = agent, steps[0]
    for block in range(10):
        await agent.lines(steps[0], [f"{block} line {n} {'x' * 80}" for n in range(5000)])


@abuse("replays", "viewer", prepare=_a_long_log, cut=True)
async def replays(ground: Ground) -> None:
    """Fifty readers have a long journal told from its beginning, each reading as fast as it can."""

    async def one(path: str) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ground.token('viewer')}\r\n\r\n"
        try:
            async with asyncio.timeout(20):
                reader, writer = await ground.client.open(limit=1 << 20)
                writer.write(request.encode())
                first = await reader.read(1 << 16)
        except OSError:  # no answer within the time is one, too
            ground.count("closed")
            return
        ground.count(
            "429 RATE_LIMIT_EXCEEDED" if b" 429 " in first[:20] else first[9:12].decode() or "closed"
        )
        with contextlib.suppress(OSError):
            async with asyncio.timeout(1.0):
                while await reader.read(1 << 18):
                    pass
        writer.transport.abort()

    run = ground.kept["run"]
    paths = [f"/api/v1/events?stream=run/{run}", "/api/v1/events", f"/api/v1/workflow-runs/{run}/stream"]
    await all_of(one(paths[n % 3]) for n in range(50))
    while ground.time:  # the limit of requests lets no more of them in for a while
        await all_of(one(paths[n % 3]) for n in range(50))


@abuse("whole logs", "viewer", prepare=_a_long_log)
async def whole_logs(ground: Ground) -> None:
    """The log of a long run, whole and in every form, by ten viewers at once."""
    run = ground.kept["run"]
    forms = ("", "?format=ndjson", "?tail=100000", "?since=1")
    await all_of(
        (ground.ask("GET", f"workflow-runs/{run}/logs{form}", ground.token("viewer")) for form in forms * 10),
        20,
    )


@abuse("readers that do not read", "viewer", prepare=_a_long_log, cut=True)
async def slow_readers(ground: Ground) -> None:
    """A hundred streams whose client takes nothing, of a log that goes on."""

    async def one(n: int) -> None:
        run, token = ground.kept["run"], ground.token("viewer")
        try:
            _, writer = await ground.client.open(limit=1)
        except OSError:
            ground.count("closed")
            return
        ground.stack.callback(writer.transport.abort)
        path = f"/api/v1/workflow-runs/{run}/stream"
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        writer.write(ws_request(path + "?cursor=start", token) if n % 2 else request)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    if "open" not in ground.kept:
        ground.kept["open"] = True
        await all_of(one(n) for n in range(100))
    agent, step = ground.kept["agent"], ground.kept["step"]
    await agent.lines(step, [f"more {n} {'y' * 100}" for n in range(1000)])
    ground.count("OK")


@abuse("subscriptions", "viewer", ("error", "closed", "4"), prepare=_a_long_log, cut=True)
async def subscriptions(ground: Ground) -> None:
    """Subscribed and unsubscribed on ``/api/v1/ws`` as fast as it goes, the answers read late."""
    run, token = ground.kept["run"], ground.token("viewer")
    shown = await ground.once("shown", lambda: ground.detail("GET", f"workflow-runs/{run}", token))
    params = {
        "pipelineId": shown["pipeline_id"],
        "jobId": shown["jobs"][0]["id"],
        "stepRunId": ground.kept["step"],
    }

    async def one() -> None:
        async with ground.client.socket("/api/v1/ws", ground.token("viewer")) as socket:
            if socket.status != 101:
                ground.count(
                    f"{socket.status} RATE_LIMIT_EXCEEDED" if socket.status == 429 else str(socket.status)
                )
                return
            for n in range(300):
                action = "unsubscribe" if n % 2 else "subscribe"
                asked = {"channel": "channel_log", "action": action, "params": {**params, "cursor": "start"}}
                socket.say(json.dumps(asked))
                socket.say(
                    json.dumps(
                        {"channel": "channel_status", "params": {**params, "stepRunId": ground.name()}}
                    )
                )
            await _heard(ground, socket)

    with contextlib.suppress(OSError, EOFError):
        await all_of(one() for _ in range(10))


async def _heard(ground: Ground, socket: object) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            while not isinstance(heard := await socket.hear(), int):  # type: ignore[attr-defined]
                ground.count("error" if b'"error"' in heard[-400:] else "message")
            ground.count(str(heard))


@abuse("frames", "viewer", cut=True)
async def frames(ground: Ground) -> None:
    """Pings, fragments and nonsense on WebSockets, whose answers nobody reads."""
    floods = (
        masked(PING, b"p" * 125) * 2000,
        masked(1, b"", fin=False) + masked(0, b"", fin=False) * 20_000,
        masked(1, b'{"channel":' + b"[" * 100_000) * 4,
        masked(1, b"[]") * 10_000,
    )

    async def one(flood: bytes) -> None:
        async with ground.client.socket("/api/v1/ws", ground.token("viewer")) as socket:
            ground.count("429 RATE_LIMIT_EXCEEDED" if socket.status == 429 else str(socket.status))
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(1.0):
                    while ground.time:
                        socket.writer.write(flood)
                        await socket.writer.drain()

    with contextlib.suppress(OSError, EOFError):
        await all_of(one(flood) for flood in floods for _ in range(3))


@abuse("at the limit", "viewer", LIMIT)
async def at_the_limit(ground: Ground) -> None:
    """As many small requests as ten viewers have in a minute, in one burst."""
    lists = (
        "workflow-runs",
        "pipelines",
        "agents",
        "gates",
        "triggers",
        "projects",
        "tokens",
        "agents/stats",
        "roles",
        "auth/me",
    )
    await all_of((ground.ask("GET", lists[n % len(lists)], ground.token("viewer")) for n in range(300)), 100)


@abuse("statuses over gRPC", "viewer", ("RESOURCE_EXHAUSTED", "NOT_FOUND", "INVALID_ARGUMENT"))
async def statuses(ground: Ground) -> None:
    """Streams of all that there is, and of a thousand ids, over gRPC."""

    async def one(name: str, request: object) -> None:
        channel = ground.kept.setdefault(f"channel{hash(name) % 4}", ground.channel())
        token = (("authorization", f"Bearer {ground.token('viewer')}"),)
        call = table().rpc(channel, f"stream.v1.StreamService/{name}")(request, metadata=token)
        try:
            async with asyncio.timeout(20):
                await call.initial_metadata()
                ground.count("OK")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while await call.read():
                        pass
        except grpc.aio.AioRpcError as error:
            ground.count(status(error))
        except TimeoutError:
            ground.count("no answer")
        call.cancel()

    many = [ground.name(payloads.UNKNOWN) for _ in range(1000)]
    asked = {
        "StreamStepRunStatus": ({}, {"step_run_ids": many}),
        "StreamJobStatus": ({}, {"job_ids": many}),
        "StreamPipelineStatus": ({}, {"pipeline_run_ids": many}),
        "StreamAgentStatus": ({"agent_ids": many},),
    }
    calls = [(n, message(f"stream.v1.{n}Request", **fields)) for n, all in asked.items() for fields in all]
    await all_of((one(name, request) for name, request in calls * 4), 20)


@abuse("reflection and health", "anonymous")
async def reflection(ground: Ground) -> None:
    """The services that need no credential, asked endlessly."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel = await ground.once("channel", lambda: _open(ground))
    check = health_pb2_grpc.HealthStub(channel).Check
    await all_of((ground.call(check(health_pb2.HealthCheckRequest())) for _ in range(200)), 50)
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="agent.v1.AgentService")
    call = ask(iter([asked] * 500))
    async with asyncio.timeout(20):
        async for _ in call:
            pass
    ground.count("OK")


async def _open(ground: Ground) -> object:
    channel = ground.channel()
    ground.stack.push_async_callback(channel.close)
    return channel
