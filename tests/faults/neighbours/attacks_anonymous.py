"""Callers without a credential, or with a wrong one."""

from __future__ import annotations

import asyncio
import itertools

import grpc.aio

from faults.neighbours import payloads
from faults.neighbours.client import Client
from faults.neighbours.ground import Ground, all_of, message
from faults.neighbours.table import abuse
from support.wire_table import table

LIMITED = ("401", "413", "429", "503")
_sources = itertools.cycle(range(1, 250))


@abuse("logins", "anonymous", ("401 AUTH_INVALID_CREDENTIALS", "429"))
async def logins(ground: Ground) -> None:
    """Wrong passwords from many addresses and for many users: each costs a hash of 64 MiB."""

    async def one(source: int, user: str) -> None:
        client = Client(ground.given["port"], f"127.0.66.{source}")
        body = b'{"username": "%s", "password": "wrong but long enough"}' % user.encode()
        ground.count((await client.ask("POST", "auth/login", "", body)).outcome)

    users = ["admin", "user-0", *(ground.name("nobody") for _ in range(2))]
    await all_of(one(next(_sources), user) for user in users for _ in range(3))


@abuse("bodies of strangers", "anonymous", LIMITED, cut=True)
async def bodies_of_strangers(ground: Ground) -> None:
    """Large bodies to routes that need a credential: nobody should read them."""
    from faults.neighbours.abuses import paths

    body = payloads.noise(2 << 20)
    await all_of((ground.stranger(method, path, "", body) for method, path in paths("body")), 30)


@abuse("uploads of strangers", "anonymous", ("401", "429"), cut=True)
async def uploads_of_strangers(ground: Ground) -> None:
    """Blobs of 8 MB without a credential."""
    body = payloads.noise(8 << 20)
    await all_of(
        (ground.stranger("POST", "blobs", "", body, kind="application/octet-stream") for _ in range(10)), 10
    )


@abuse("made-up tokens", "anonymous", ("401 AUTH_TOKEN_INVALID", "429"))
async def made_up_tokens(ground: Ground) -> None:
    """Each is looked up."""
    await all_of(ground.stranger("GET", "workflow-runs", ground.name("pt_guess")) for _ in range(200))


@abuse("health", "anonymous")
async def health(ground: Ground) -> None:
    """The routes that need no credential, as fast as they answer."""
    await all_of(
        ground.stranger("GET", path)
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json")
        for _ in range(20)
    )


@abuse("long addresses", "anonymous", ("400", "401", "429"), cut=True)
async def long_addresses(ground: Ground) -> None:
    """Thousands of parameters, on every route."""
    from faults.neighbours.abuses import paths

    query = "?" + "&".join(f"p{n}={n}" for n in range(4000))
    await all_of(ground.stranger(method, path + query) for method, path in paths("query"))


@abuse("handshakes of strangers", "anonymous", ("401", "4401", "429", "4429"), cut=True)
async def handshakes(ground: Ground) -> None:
    """WebSockets without a credential, left open."""

    async def one(path: str) -> None:
        try:
            async with asyncio.timeout(20), ground.client.socket(path, "") as socket:
                ground.count(str(socket.status if socket.status != 101 else await _code(socket)))
        except (OSError, EOFError, TimeoutError):
            ground.count("closed")

    path = f"/api/v1/workflow-runs/{payloads.UNKNOWN}/stream"
    await all_of((one(at) for at in ("/api/v1/ws", path) for _ in range(40)), 40)


async def _code(socket: object) -> int:
    while not isinstance(heard := await socket.hear(), int):  # type: ignore[attr-defined]
        pass
    return heard


@abuse("bad registrations", "anonymous", ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED"))
async def bad_registrations(ground: Ground) -> None:
    """``Register`` with tokens that are none, on a few connections, as fast as it goes."""
    channels = await ground.once("channels", lambda: _channels(ground, 4))
    request = message("agent.v1.RegisterRequest", agent_id="stranger", registration_token="prt_guess")
    await all_of(
        (
            ground.call(table().rpc(channels[n % 4], "agent.v1.AgentService/Register")(request))
            for n in range(400)
        ),
        100,
    )


@abuse("messages of 16 MiB", "anonymous", ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"))
async def large_messages(ground: Ground) -> None:
    """To every unary and every streaming RPC, without a credential."""
    channels = await ground.once("channels", lambda: _channels(ground, 4))
    data = payloads.large_message()
    methods = ground.kept.setdefault("methods", itertools.cycle(table().methods))
    await all_of((_raw(ground, channels[n], next(methods), data) for n in range(4)), 4)


@abuse("calls of strangers", "anonymous", ("UNAUTHENTICATED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"))
async def calls_of_strangers(ground: Ground) -> None:
    """Every RPC with an empty message, a made-up token, and thousands of bytes of metadata."""
    channels = await ground.once("channels", lambda: _channels(ground, 4))
    for more in ((), (("authorization", "Bearer guess"),), (("x-filler", "x" * 6000),)):
        calls = (
            _raw(ground, channels[n % 4], method, b"", more)
            for n, method in enumerate([*table().methods] * 2)
        )
        await all_of(calls, 40)


async def _channels(ground: Ground, count: int) -> list[grpc.aio.Channel]:
    channels = [ground.channel() for _ in range(count)]
    for channel in channels:
        ground.stack.push_async_callback(channel.close)
    return channels


async def _raw(
    ground: Ground,
    channel: grpc.aio.Channel,
    method: str,
    data: bytes,
    metadata: tuple[tuple[str, str], ...] = (),
) -> None:
    _, _, asks, answers = table().methods[method]
    kind = f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}"
    call = getattr(channel, kind)(f"/{method}")
    await ground.call(call(iter([data]) if asks else data, metadata=metadata))
