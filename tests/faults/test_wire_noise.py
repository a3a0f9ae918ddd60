"""Random gRPC messages and WebSocket requests on real connections. The server keeps running."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.fake_agent import FakeAgent, batch, events, registered
from support.faults.fleet import PATIENT, ROUNDS, Fleet, fleet
from support.server import spec_for
from support.watchers import closing, websocket
from support.wire_table import table

FORESEEN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Status codes allowed for refused calls; others are bugs."""
some = settings(
    max_examples=60 * ROUNDS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("noise"), **PATIENT) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(made: Fleet) -> None:
    made.unforeseen()  # of the test before


class Wire:
    """One agent with a running step, on an event loop that outlives every example."""

    def __init__(self, made: Fleet) -> None:
        self.made = made
        self.loop = asyncio.new_event_loop()
        self.agent, self.step, self.params = self.do(self._begin())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    async def _begin(self) -> tuple[FakeAgent, str, dict[str, str]]:
        agent = await registered(self.made.server, "noisy")
        pipeline = self.made.server.pipeline("noisy", spec_for("noisy"))
        self.made.server.trigger(pipeline)
        task = await agent.task()
        await agent.ack(task)
        params = {"pipelineId": pipeline, "jobId": task.job_id, "stepRunId": task.step_run_id}
        return agent, task.step_run_id, params

    def close(self) -> None:
        self.do(self.agent.vanish())
        self.loop.run_until_complete(_ended())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


async def _ended() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def wire(made: Fleet) -> Iterator[Wire]:
    wire = Wire(made)
    yield wire
    wire.close()


async def raw(agent: FakeAgent, method: str, *messages: bytes) -> None:
    """Send these bytes in a call; returns its first response or its end."""
    agent.rpc("agent.v1.AgentService/Register")  # opens the channel
    assert agent.channel is not None
    call = agent.channel.stream_stream(f"/{method}")(iter(messages), metadata=agent.metadata, timeout=60)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        call.cancel()


METHODS = sorted(m for m in table().methods if m.startswith(("agent.", "gateway.")))


def test_bytes_that_are_no_message(wire: Wire) -> None:
    """To every method, with the credentials of an agent."""
    victim = FakeAgent(wire.made.server.grpc, "victim")

    @some
    @given(st.sampled_from(METHODS), st.lists(st.binary(max_size=200), min_size=1, max_size=3))
    def send(method: str, messages: list[bytes]) -> None:
        if method.endswith("/Unregister") or not victim.token:  # it may do that, and is then no more
            wire.do(victim.register(wire.made.server.registration_token(agents=["victim"])))
        wire.do(raw(victim, method, *messages))

    send()
    wire.do(victim.vanish())
    assert wire.made.server.alive
    assert [told for told in wire.made.unforeseen() if "DecodeError" not in told] == []


number = st.integers(0, 2**64 - 1) | st.integers(0, 5)
text = st.text(max_size=20) | st.sampled_from(["noisy", "\x00", "x" * 5000])
LOG = st.fixed_dictionaries(
    {"seq": number, "step": text | st.just(""), "id": text, "data": st.binary(max_size=100)},
    optional={"compression": st.integers(0, 9), "raw_size": st.integers(0, 2**32 - 1)},
)


def test_log_batches_of_any_kind(wire: Wire) -> None:
    """Each is accepted or refused with a code; streams of other clients continue."""

    @some
    @given(st.lists(LOG, min_size=1, max_size=4), st.booleans())
    @example([{"seq": 2**64 - 1, "step": "", "id": "huge", "data": b"x\n"}], False)
    @example([{"seq": 2**63, "step": "", "id": "huge", "data": b"x\n"}], False)
    @example([{"seq": 0, "step": "", "id": "zero", "data": b"x\n"}], False)
    @example(
        [{"seq": 1, "step": "", "id": "", "data": b"\x1f\x8b\x08\0\0\0\0\0\0\3\xff\xff", "compression": 2}],
        False,
    )
    def push(batches: list[dict[str, Any]], ndjson: bool) -> None:
        made = [_batch(wire, **one) for one in batches]
        metadata = [("pilot-log-format", "ndjson")] if ndjson else []
        code = wire.do(_code(wire.agent.push(*made, metadata=metadata)))
        assert code in (None, *FORESEEN), code

    push()
    assert wire.made.unforeseen() == []


def _batch(wire: Wire, seq: int, step: str, id: str, data: bytes, **more: int) -> Any:
    return batch(step or wire.step, seq, data, id=id, **more)


async def _code(call: Coroutine[Any, Any, Any]) -> grpc.StatusCode | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


value = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPES = ["arcentra.step.progress", "arcentra.step.output", "arcentra.step.annotation", "x", "", "y" * 3000]


def test_events_of_any_kind(wire: Wire) -> None:
    """None blocks the following ones: events are accepted in sequence or refused."""
    seq = 0

    @some
    @given(
        st.sampled_from(TYPES) | text,
        st.dictionaries(
            st.sampled_from(["percent", "progress", "message", "name", "value"]) | text, value, max_size=4
        ),
        text | st.just(""),
    )
    @example("arcentra.step.output", {"name": "n", "value": float("nan")}, "")
    @example("arcentra.step.output", {"name": "n", "value": float("inf")}, "")
    @example("arcentra.step.progress", {"percent": float("inf")}, "")
    @example("arcentra.step.progress", {"percent": 1e300, "message": ["x"]}, "")
    @example("arcentra.step.output", {"name": ["n"], "value": {"a": [float("nan")]}}, "")
    def push(type: str, payload: dict[str, Any], step: str) -> None:
        nonlocal seq
        seq += 1
        told = events((f"e{seq}", seq, step or wire.step, type, payload))
        code = wire.do(_code(wire.agent.push_events(told)))
        assert code in (None, *FORESEEN), code
        if code is not None:
            seq -= 1
        seq += 1
        ack = wire.do(wire.agent.push_events(events((f"e{seq}", seq, wire.step, "after", {}))))
        assert (ack.status, ack.last_accepted_seq) == (1, seq), "an honest event is refused after it"

    push()
    assert wire.made.unforeseen() == []


# -- WebSockets -----------------------------------------------------------------------------------------


@asynccontextmanager
async def channels(wire: Wire) -> AsyncIterator[Any]:
    async with websocket(f"{wire.made.server.ws}/api/v1/ws", wire.made.server.admin) as ws:
        yield ws


small = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(["start", "now"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _requests(wire: Wire) -> st.SearchStrategy[Any]:
    params = {name: st.just(known) | small for name, known in wire.params.items()}
    word = st.sampled_from(["channel_log", "channel_status", "subscribe", "unsubscribe"]) | small
    request = st.fixed_dictionaries(
        {},
        optional={
            "channel": word,
            "action": word,
            "params": st.fixed_dictionaries({}, optional={**params, "cursor": small}) | small,
        },
    )
    return request | small


def test_channel_requests_of_any_kind(wire: Wire) -> None:
    """Each gets a response, or the socket is closed with a specific code."""

    @some
    @given(
        st.lists(_requests(wire).map(json.dumps) | st.text(max_size=30) | st.binary(max_size=30), max_size=4)
    )
    def ask(requests: list[str | bytes]) -> None:
        wire.do(_asked(wire, requests))

    ask()
    assert wire.made.unforeseen() == []


async def _asked(wire: Wire, requests: list[str | bytes]) -> None:
    async with channels(wire) as ws:
        with contextlib.suppress(ConnectionClosed):
            for request in requests:
                await ws.send(request)
            await ws.send("?")  # surely an error, behind the answers to all others
            async with asyncio.timeout(60):
                async for answer in ws:
                    if "one JSON object" in (json.loads(answer).get("error") or ""):
                        break
        await ws.close()
        assert ws.close_code in (1000, 4400, 4410), ws.close_code


def test_run_streams_of_any_name(wire: Wire) -> None:
    """Any name: one error message and a close code, with the reason truncated to fit."""

    @some
    @given(st.text(min_size=1, max_size=150), st.text(max_size=40))
    @example("é" * 150, "start")
    @example("\U0001f600" * 150, "start")
    @example("x", "\U0001f600" * 40)
    def ask(run_id: str, cursor: str) -> None:
        path = f"/api/v1/workflow-runs/{quote(run_id, safe='', errors='replace')}/stream?cursor={quote(cursor, errors='replace')}"
        wire.do(_refused(wire, path))

    ask()
    assert wire.made.unforeseen() == []


async def _refused(wire: Wire, path: str) -> None:
    try:
        async with websocket(wire.made.server.ws + path, wire.made.server.admin) as ws:
            code, said = await closing(ws)
            assert code in (4400, 4404, 4410), code
            assert [one["type"] for one in said] == ["error"]
    except InvalidStatus:
        return  # a path that is no route


def test_cursors_of_any_kind_over_http(wire: Wire) -> None:
    server = wire.made.server

    @some
    @given(st.text(max_size=30) | st.from_regex(r"\A[0-9a-f]{8}\.[0-9]{1,20}\.[0-9]{1,12}\Z"))
    def ask(cursor: str) -> None:
        headers = {"Authorization": f"Bearer {server.admin}"}
        with httpx.stream(
            "GET", f"{server.url}/api/v1/events", params={"cursor": cursor}, headers=headers
        ) as answer:
            assert answer.status_code in (400, 410) or cursor in ("", "start", "now"), (
                cursor,
                answer.status_code,
            )

    ask()
    assert wire.made.unforeseen() == []
