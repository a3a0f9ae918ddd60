"""The gate in front of gRPC calls, in this process: what strangers cost, and what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from pilothouse.access.errors import Refusal, token_invalid
from pilothouse.access.model import SYSTEM, Principal
from pilothouse.edge import strangers as bounds
from pilothouse.edge.limits import RateLimits, RateLimitSettings
from pilothouse.edge.strangers import Strangers
from pilothouse.fleet.model import AgentProfile
from pilothouse.fleet.registry import Allowance
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.server import rpc_gate
from pilothouse.server.graph import Graph, build
from pilothouse.server.rpc import start_rpc
from pilothouse.server.rpc_gate import RpcGate, Rule
from pilothouse.server.settings import Settings
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1.agent_pb2_grpc import AgentServiceStub
from support.waiting import PATIENCE, eventually

Code = grpc.StatusCode
SECRET = "hunter2-in-an-exception"


class Anyone:
    """Knows two tokens, and counts how often it is asked."""

    asked = 0

    async def authenticate(self, token: str, address: str = "", request_id: str = "") -> Principal:
        """By its token."""
        self.asked += 1
        await asyncio.sleep(0)
        if token not in ("agent", "user"):
            raise token_invalid()
        return Principal(token, token, token, None, frozenset(), f"{token}/1", None, address, request_id)  # type: ignore[arg-type]

    def authorize(self, principal: Principal) -> Any:
        """Not needed here."""
        raise AssertionError


async def _fail(request: Any, context: Any) -> Any:
    raise {b"key": KeyError, b"os": OSError, b"recursion": RecursionError}[request](SECRET)


async def _fails(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    await _fail(request, context)


async def _writes(request: Any, context: Any) -> None:
    await context.write(b"first")
    await _fail(request, context)


async def _takes(requests: AsyncIterator[bytes], context: Any) -> Any:
    async for request in requests:
        await _fail(request, context)


async def _talks(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield b"first"
        await _fail(request, context)


async def _echo(request: bytes, context: Any) -> bytes:
    return request[:8]


async def _refused(request: bytes, context: Any) -> bytes:
    raise Refusal.of("AGENT_NOT_FOUND", "no such agent")


async def _hang(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


def _number(raw: bytes) -> bytes:
    return str(int(raw)).encode()


HANDLERS = {
    "One": grpc.unary_unary_rpc_method_handler(_fail),
    "Gives": grpc.unary_stream_rpc_method_handler(_fails),
    "Writes": grpc.unary_stream_rpc_method_handler(_writes),
    "Takes": grpc.stream_unary_rpc_method_handler(_takes),
    "Talks": grpc.stream_stream_rpc_method_handler(_talks),
    "Echo": grpc.unary_unary_rpc_method_handler(_echo),
    "Open": grpc.unary_unary_rpc_method_handler(_echo),
    "Refused": grpc.unary_unary_rpc_method_handler(_refused),
    "Hang": grpc.unary_unary_rpc_method_handler(_hang),
    "Number": grpc.unary_unary_rpc_method_handler(_echo, request_deserializer=_number),
}
RULES = {"/t.S/Open": Rule(open=True, max_message=1000), "/t.S/Echo": Rule(max_message=5000)}
KINDS = {"Gives": "unary_stream", "Writes": "unary_stream", "Takes": "stream_unary", "Talks": "stream_stream"}


@asynccontextmanager
async def gated(limit: str = "off") -> AsyncIterator[tuple[str, Anyone, Strangers]]:
    """A server behind the gate: its address, who authenticates, what is counted."""
    known, limits = Anyone(), RateLimits(RateLimitSettings("off", "off", limit))
    strangers = Strangers(limits)
    server = grpc.aio.server(
        interceptors=[RpcGate(known, limits, strangers, RULES)],
        options=[("grpc.max_receive_message_length", 16 << 20), ("grpc.http2.bdp_probe", 0)],
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", known, strangers
    await server.stop(None)


async def call(channel: grpc.aio.Channel, method: str, body: bytes, token: str = "agent", **more: Any) -> Any:
    """Call a method; what it answers, or its error."""
    metadata = more.pop("metadata", [("authorization", f"Bearer {token}")] if token else [])
    kind = KINDS.get(method, "unary_unary")
    made = getattr(channel, kind)(f"/t.S/{method}", request_serializer=None, response_deserializer=None)
    asked = made(iter([body]) if kind.startswith("stream") else body, metadata=metadata, timeout=PATIENCE)
    try:
        if kind.endswith("stream"):
            return [answer async for answer in asked]
        return await asked
    except grpc.aio.AioRpcError as error:
        return error


def said(error: Any) -> tuple[Any, str]:
    """The status of an error and its code, which must begin its details."""
    assert isinstance(error, grpc.aio.AioRpcError), error
    code = dict(error.trailing_metadata() or ())["pilot-code"]
    assert str(error.details()).startswith(f"{code}: ")
    return error.code(), str(code)


@pytest.mark.parametrize("method", ["One", "Gives", "Writes", "Takes", "Talks"])
@pytest.mark.parametrize("kind", ["key", "os", "recursion"])
async def test_an_unexpected_error_has_a_code_and_no_text(method: str, kind: str) -> None:
    async with gated() as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        sent = [("authorization", "Bearer agent"), ("x-request-id", "my-id")]
        error = await call(channel, method, kind.encode(), metadata=sent)
        assert said(error) == (Code.INTERNAL, "INTERNAL_ERROR")
        shown = f"{error.details()} {error.debug_error_string()} {error.trailing_metadata()}"
        assert SECRET not in shown
        assert not [
            word for word in ("KeyError", "OSError", "Recursion", "Traceback", ".py") if word in shown
        ]
        assert dict(error.trailing_metadata())["x-request-id"] == "my-id"


@pytest.mark.parametrize(
    ("method", "body", "token", "expected"),
    [
        ("Refused", b"", "agent", (Code.NOT_FOUND, "AGENT_NOT_FOUND")),
        ("Echo", b"x", "", (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")),
        ("Echo", b"x", "guess", (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")),
        ("Nothing", b"x", "agent", (Code.UNIMPLEMENTED, "NOT_IMPLEMENTED")),
        ("Nothing", b"x", "", (Code.UNIMPLEMENTED, "NOT_IMPLEMENTED")),
        ("Echo", b"x" * 5001, "agent", (Code.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")),
        ("Open", b"x" * 1001, "", (Code.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")),
        ("Number", b"\xff", "agent", (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")),
    ],
)  # fmt: skip
async def test_every_refusal_has_its_code(method: str, body: bytes, token: str, expected: Any) -> None:
    async with gated() as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        assert said(await call(channel, method, body, token)) == expected


async def test_what_is_allowed_goes_through() -> None:
    async with gated() as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        assert await call(channel, "Echo", b"x" * 5000) == b"x" * 8
        assert await call(channel, "Open", b"x" * 1000, "") == b"x" * 8
        assert await call(channel, "Number", b"0017") == b"17"
        named = [("authorization", "bearer agent:agent")]
        assert await call(channel, "Echo", b"x", metadata=named) == b"x"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["authorization"] * 2, (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")),
        (["authorization", "x-request-id", "x-request-id"], (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")),
        (["authorization", "pilot-cursor", "pilot-cursor"], (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")),
        (["authorization", "mine", "mine"], b"x"),
    ],
)  # fmt: skip
async def test_repeated_metadata(pairs: list[str], expected: Any) -> None:
    values = {"authorization": "Bearer agent"}
    async with gated() as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        for method in ("Echo", "Open"):
            sent = [(name, values.get(name, "v")) for name in pairs]
            answer = await call(channel, method, b"x", metadata=sent)
            assert (answer if isinstance(answer, bytes) else said(answer)) == expected


@pytest.mark.parametrize(
    "named", ["other:agent", ":agent", "agent:", "user:user", "agent:guess", "agent:agent:x"]
)
async def test_an_agent_s_name_belongs_to_its_token(named: str) -> None:
    async with gated() as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        error = await call(channel, "Echo", b"x", metadata=[("authorization", f"Bearer {named}")])
        ok = named == ":agent"
        assert error == b"x" if ok else said(error) == (Code.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")


async def test_failed_calls_count_by_address_and_are_then_refused_unchecked() -> None:
    async with gated("20/minute") as (address, known, _), grpc.aio.insecure_channel(address) as channel:
        assert await call(channel, "Echo", b"x") == b"x"
        codes = [said(await call(channel, "Echo", b"x", f"guess-{n}"))[1] for n in range(30)]
        assert codes == ["AUTH_TOKEN_INVALID"] * 20 + ["RATE_LIMIT_EXCEEDED"] * 10
        asked = known.asked
        many = await asyncio.gather(*(call(channel, "Echo", b"x", f"g-{n}") for n in range(500)))
        assert {said(error) for error in many} == {(Code.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED")}
        assert all(1 <= int(dict(e.trailing_metadata())["retry-after"]) <= 60 for e in many)
        assert known.asked - asked < 100
        # Whoever has a valid credential is served meanwhile, known here or not.
        for method, token in (("Echo", "agent"), ("Echo", "user")):
            assert await call(channel, method, b"x", token) == b"x"


@pytest.mark.parametrize("method", ["Nothing", "Open"])
async def test_unknown_and_open_methods_count_when_they_fail(method: str) -> None:
    async with gated("20/minute") as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        codes = [said(await call(channel, method, b"x" * 2000, ""))[1] for n in range(25)]
        assert set(codes[20:]) == {"RATE_LIMIT_EXCEEDED"} != set(codes[:20])


async def test_calls_of_one_token_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_gate, "MAX_CALLS_OF_AGENT", 3)
    async with gated() as (address, _, _), grpc.aio.insecure_channel(address) as channel:
        hanging = [asyncio.create_task(call(channel, "Hang", b"")) for _ in range(3)]
        error: Any = None

        async def full() -> bool:
            nonlocal error
            error = await call(channel, "Echo", b"x")
            return not isinstance(error, bytes)

        await eventually(full)
        assert said(error) == (Code.RESOURCE_EXHAUSTED, "CALLER_QUEUE_FULL")
        assert await call(channel, "Echo", b"x", "user") == b"x"
        for task in hanging:
            task.cancel()

        async def free() -> bool:
            return isinstance(await call(channel, "Echo", b"x"), bytes)

        await eventually(free)


async def test_a_message_of_a_stranger_has_to_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "READ_WITHIN", 0.2)
    monkeypatch.setattr(bounds, "WAIT_TO_READ", PATIENCE)
    async with gated() as (address, _, strangers), grpc.aio.insecure_channel(address) as channel:
        made = channel.stream_unary("/t.S/Open", request_serializer=None, response_deserializer=None)
        slow = [made(timeout=PATIENCE) for _ in range(bounds.MAX_READS_OF_ADDRESS * 2)]
        for one in slow:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await one
            assert said(caught.value) == (Code.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
        assert await call(channel, "Open", b"x", "") == b"x"
        assert not strangers._reads_of


@asynccontextmanager
async def whole(path: Path, **settings: Any) -> AsyncIterator[tuple[Graph, str, list[Any]]]:
    """All services and their gRPC server; what has been given to the writer."""
    limits: dict[str, Any] = {"ratelimit_default": "off", "ratelimit_login": "off", **settings}
    graph = build(Settings(data_dir=path, grpc_port=0, **limits))
    graph.writer.start(graph.journal)
    written: list[Any] = []
    submit: Callable[..., Any] = graph.writer.submit

    def counted(use_case: Any) -> Any:
        written.append(use_case)
        return submit(use_case)

    graph.writer.submit = counted  # type: ignore[method-assign]
    server, port = await start_rpc(graph)
    yield graph, f"127.0.0.1:{port}", written
    await server.stop(None)
    await graph.writer.stop()
    graph.service(Identity).close()
    graph.journal.feed.close()
    graph.database.close()


def _bad_registrations(registration: str) -> list[pb.RegisterRequest]:
    slots = {"max_concurrent_step_runs": 1}
    return [
        pb.RegisterRequest(agent_id="a", registration_token="pilotreg_guess", **slots),  # type: ignore[arg-type]
        pb.RegisterRequest(agent_id="a", token="pilotagent_guess", **slots),  # type: ignore[arg-type]
        pb.RegisterRequest(agent_id="a", **slots),  # type: ignore[arg-type]
        pb.RegisterRequest(agent_id="not a name", registration_token=registration),
        pb.RegisterRequest(agent_id="b", registration_token=registration, labels={"zone": "b"}),
        pb.RegisterRequest(agent_id="c", registration_token=registration, max_concurrent_step_runs=-1),
        pb.RegisterRequest(agent_id="d", registration_token=registration, max_sessions=2**31 - 1),
        pb.RegisterRequest(agent_id="e", registration_token=registration, metadata={"x": "y" * 20_000}),
        pb.RegisterRequest(agent_id="f", registration_token=registration, agent_name="\x00"),
        pb.RegisterRequest(agent_id="taken", registration_token=registration),
    ]


@pytest.mark.parametrize("limit", ["off", "100/minute"])
async def test_two_thousand_bad_calls_cost_no_transaction(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "PAUSE", 0.002)
    async with (
        whole(tmp_path, ratelimit_default=limit) as (graph, address, written),
        AsyncExitStack() as stack,
    ):
        registry = graph.service(Fleet).registry

        def tokens(tx: Any) -> str:
            def token(**more: Any) -> str:
                made = registry.create_registration_token(
                    tx, SYSTEM, description="", max_uses=None, expires_in=None, **more
                )
                return str(made["token"])

            registry.register(tx, AgentProfile("taken"), registration_token=token(), own_token="")
            return token(allows=Allowance(labels=["zone=a"]))

        bad = _bad_registrations(await graph.storage.write(tokens))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stub = AgentServiceStub(channel)
        written.clear()
        codes: set[str] = set()
        for _ in range(20):
            calls = [stub.Register(bad[n % len(bad)], timeout=PATIENCE) for n in range(50)]
            guess = [("authorization", "Bearer pilotagent_guess")]
            calls += [stub.Heartbeat(pb.HeartbeatRequest(), metadata=guess) for _ in range(50)]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                codes.add(said(error)[1])
        assert written == []
        expected = {"AUTH_TOKEN_INVALID", "VALIDATION_FAILED", "AGENT_ALREADY_EXISTS"}
        assert codes <= expected | {"RATE_LIMIT_EXCEEDED"}
        assert ("RATE_LIMIT_EXCEEDED" in codes) == (limit != "off")
        assert limit != "off" or codes == expected
