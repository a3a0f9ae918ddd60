"""Callers of gRPC, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from identity_kit import Stack, running
from pilothouse.access.model import Principal
from pilothouse.edge.grpc import caller, require
from pilothouse.edge.limits import RateLimitSettings


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path, RateLimitSettings("off", "off", "3/minute")) as stack:
        yield stack


@pytest.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to one method that needs ``user.admin`` and names its caller."""

    async def who(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        principal = await caller(context, stack.identity, stack.limits)
        await require(context, principal, request.decode())
        return f"{principal.name} {principal.address} {principal.request_id}".encode()

    server = grpc.aio.server()
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def ask(channel: grpc.aio.Channel, authorization: str | None, action: str = "user.admin") -> str:
    metadata = [("x-request-id", "abc-4")]
    if authorization is not None:
        metadata.append(("authorization", authorization))
    call: Any = channel.unary_unary("/test.Who/Call", request_serializer=None, response_deserializer=None)
    answer: bytes = await call(action.encode(), metadata=tuple(metadata))
    return answer.decode()


def trailing(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    pairs: Any = error.trailing_metadata()
    return dict(pairs)


async def test_a_good_token_names_its_caller(stack: Stack, channel: grpc.aio.Channel) -> None:
    assert await ask(channel, f"Bearer {stack.admin}") == "admin 127.0.0.1 abc-4"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [(None, "AUTH_TOKEN_MISSING"), ("Bearer x", "AUTH_TOKEN_INVALID"), ("Basic x", "AUTH_TOKEN_INVALID")],
)
async def test_without_a_good_token(channel: grpc.aio.Channel, authorization: str | None, code: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel, authorization)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (refused.value.details() or "").startswith(code)
    assert trailing(refused.value)["pilot-code"] == code


async def test_without_the_right(stack: Stack, channel: grpc.aio.Channel) -> None:
    token = await stack.user("ann")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel, f"Bearer {token}")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_users_are_counted_and_agents_are_not(stack: Stack, channel: grpc.aio.Channel) -> None:
    agent = Principal("agent", "a1", "builder", None, frozenset(), "agent/a1", None)
    stack.identity.add_authenticator(lambda conn, token: agent if token == "agent-token" else None)
    for _ in range(5):
        assert (await ask(channel, "Bearer agent-token", "agent.self")).startswith("builder")
    for _ in range(3):
        await ask(channel, f"Bearer {stack.admin}")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel, f"Bearer {stack.admin}")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 1 <= int(trailing(refused.value)["retry-after"]) <= 60
    assert (await stack.call("GET", "/auth/me")).status_code == 429
