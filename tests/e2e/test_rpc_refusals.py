"""Every RPC refuses with a status, ``CODE: message`` and the code in trailing metadata ``pilot-code``."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from pilothouse.access.errors import CODES
from support.fake_agent import FakeAgent, registered
from support.server import Server
from support.waiting import PATIENCE
from support.wire_table import table

Code = grpc.StatusCode
FOR_USERS = ("pipeline.v1.", "steprun.v1.")
OF_USERS = {"CancelStepRun", "CancelJobRun"}
"""Calls of agent.v1 that users may make, too."""
REGISTER = "agent.v1.AgentService/Register"
OTHERS = {
    "grpc.health.v1.Health/Check": (False, False),
    "grpc.health.v1.Health/Watch": (False, True),
    "grpc.health.v1.Health/List": (False, False),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (True, True),
    "agent.v1.AgentService/NoSuchMethod": (False, False),
    "no.such.Service/Method": (True, True),
}
METHODS = {name: kinds[2:] for name, kinds in table().methods.items()}


async def ask(
    server: Server, method: str, body: bytes, metadata: Any = (), kinds: tuple[bool, bool] | None = None
) -> Any:
    """The error of a call, or None."""
    for _ in range(100):
        error = await _once(server, method, body, metadata, kinds or METHODS[method])
        # The client's library makes an error of its own if the refusal arrives before it has sent the message.
        if error is None or error.details() != "Internal error from Core":
            break
    return error


async def _once(server: Server, method: str, body: bytes, metadata: Any, kinds: tuple[bool, bool]) -> Any:
    asks, answers = kinds
    async with grpc.aio.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        kind = f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}"
        made = getattr(channel, kind)(f"/{method}", request_serializer=None, response_deserializer=None)
        call = made(iter([body]) if asks else body, metadata=tuple(metadata), timeout=PATIENCE)
        try:
            if answers:
                async for _ in call:
                    return None
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error
        return None


def said(error: Any, method: str = "") -> tuple[Any, str]:
    """The status and the code, which is of the table and is given in both places."""
    assert isinstance(error, grpc.aio.AioRpcError), method
    codes = [value for key, value in error.trailing_metadata() or () if key == "pilot-code"]
    assert len(codes) == 1, (method, error)
    assert codes[0] in CODES
    assert str(error.details()).startswith(f"{codes[0]}: "), (method, error)
    return error.code(), str(codes[0])


def for_agents(method: str) -> bool:
    return not any(part in method for part in FOR_USERS)


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


CREDENTIALS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "none": ([], "AUTH_TOKEN_MISSING"),
    "guess": ([bearer("guess")], "AUTH_TOKEN_INVALID"),
    "guess of an agent": ([bearer("pilotagent_" + "x" * 43)], "AUTH_TOKEN_INVALID"),
    "name and guess": ([bearer("walker:pilotagent_x")], "AUTH_TOKEN_INVALID"),
    "basic": ([("authorization", "Basic YTpi")], "AUTH_TOKEN_INVALID"),
    "empty": ([("authorization", "Bearer ")], "AUTH_TOKEN_MISSING"),
    "long": ([bearer("x" * 7000)], "AUTH_TOKEN_INVALID"),
}


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_without_a_credential(shared_server: Server, name: str) -> None:
    metadata, code = CREDENTIALS[name]
    found = {}
    for method in METHODS:
        error = await ask(shared_server, method, b"", metadata)
        found[method] = said(error, method)[1]
    expected = dict.fromkeys(METHODS, code)
    expected[REGISTER] = "VALIDATION_FAILED"  # an empty message has no name
    assert found == expected


async def test_twice_the_same_credential(shared_server: Server) -> None:
    async with await registered(shared_server, "twice") as agent:
        for method in METHODS:
            error = await ask(shared_server, method, b"", [bearer(agent.token), bearer(agent.token)])
            assert said(error, method) == (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")


async def test_users_are_no_agents(shared_server: Server) -> None:
    for method in METHODS:
        if not for_agents(method) or "StreamService/Stream" in method or method == REGISTER:
            continue
        error = await ask(shared_server, method, b"", [bearer(shared_server.admin)])
        if method.partition("/")[2] in OF_USERS:
            assert said(error, method) == (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")  # no id
        else:
            assert said(error, method) == (Code.PERMISSION_DENIED, "AUTH_INSUFFICIENT_PERMISSIONS")


async def test_messages_that_cannot_be_decoded(shared_server: Server) -> None:
    async with await registered(shared_server, "garbled") as agent:
        for method in METHODS:
            if for_agents(method):
                error = await ask(shared_server, method, b"\xff\xff\xff", [bearer(agent.token)])
                assert said(error, method) == (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")
        for method, kinds in OTHERS.items():
            error = await ask(shared_server, method, b"\xff\xff\xff", kinds=kinds)
            expected = "NOT_IMPLEMENTED" if "uch" in method else "VALIDATION_FAILED"
            assert said(error, method)[1] == expected
    error = await ask(shared_server, "grpc.health.v1.Health/List", b"", kinds=(False, False))
    assert said(error) == (Code.UNIMPLEMENTED, "NOT_IMPLEMENTED")
    error = await ask(shared_server, "grpc.health.v1.Health/Check", b"\x0a\x01x", kinds=(False, False))
    assert said(error) == (Code.NOT_FOUND, "NOT_FOUND")


async def test_messages_that_are_too_large(shared_server: Server) -> None:
    """Only PushLogs and PushEvents take more than 1 MiB."""
    async with await registered(shared_server, "bulky") as agent:
        for method, (request, *_) in table().methods.items():
            if not for_agents(method):
                continue
            message = table().message(request)()
            unknown = b"\x9a\x3f" + b"\x80\x80\x80\x01" + bytes(2 << 20)  # a field of 2 MiB that nobody knows
            error = await ask(
                shared_server, method, message.SerializeToString() + unknown, [bearer(agent.token)]
            )
            if "GatewayService" in method:
                assert error is None
            else:
                assert said(error, method) == (Code.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")


async def test_another_agent_s_name(shared_server: Server) -> None:
    async with await registered(shared_server, "honest"), await registered(shared_server, "liar") as liar:
        for method, (request, *_) in table().methods.items():
            name = method.partition("/")[2]
            if not for_agents(method) or "StreamService/Stream" in method or name == "CancelJobRun":
                continue
            message = table().message(request)()
            fields = {field.name for field in message.DESCRIPTOR.fields}
            if "agent_id" in fields:
                message.agent_id = "honest"
            else:
                message.handshake.agent_id = "honest"
            if name == "Register":
                message.max_concurrent_step_runs = 1
            error = await ask(shared_server, method, message.SerializeToString(), [bearer(liar.token)])
            if name == "Register":
                assert said(error, method) == (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")
            else:
                assert said(error, method) == (Code.PERMISSION_DENIED, "AUTH_INSUFFICIENT_PERMISSIONS")
        beat = await liar.call("agent.v1.AgentService/Heartbeat", agent_id="liar")
        assert beat.success
    assert shared_server.ask("GET", "/agents/honest")["agent_id"] == "honest"


async def test_an_agent_that_was_removed_or_replaced_is_told_so(shared_server: Server) -> None:
    first = await registered(shared_server, "moved")
    async with first:
        call = first._call
        async with FakeAgent(shared_server.grpc, "moved", token=first.token) as second:
            await second.connect()
            assert await call.code() is Code.ABORTED
            assert (await call.details()).startswith("AGENT_REPLACED: ")
            assert ("pilot-code", "AGENT_REPLACED") in [*await call.trailing_metadata()]
            call = second._call
            shared_server.call("DELETE", "/agents/moved")
            assert await call.code() is Code.UNAUTHENTICATED
            assert ("pilot-code", "AUTH_TOKEN_INVALID") in [*await call.trailing_metadata()]


async def test_an_agent_may_give_its_name_with_its_token(shared_server: Server) -> None:
    async with await registered(shared_server, "named") as agent, await registered(shared_server, "unnamed"):
        heartbeat = "agent.v1.AgentService/Heartbeat"
        for given in (f"bearer named:{agent.token}", f"BEARER {agent.token}"):
            assert (await agent.call(heartbeat, metadata=[("authorization", given)])).success
        error = await ask(shared_server, heartbeat, b"", [bearer(f"unnamed:{agent.token}")])
        assert said(error) == (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")


def test_nothing_unforeseen_was_logged(shared_server: Server) -> None:
    assert shared_server.failures() == []
