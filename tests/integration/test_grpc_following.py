"""gRPC calls on the services of a server in this process: what is encoded how often, and what comes in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.engine.model import Run
from pilothouse.engine.service import Engine, NewRun
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.model import AgentProfile
from pilothouse.fleet.service import Fleet
from pilothouse.fleet.stream_channel import AgentChannels
from pilothouse.identity.service import Identity
from pilothouse.journal import Cursor, Entry, Frame
from pilothouse.journal.protobuf import ProtoFormat
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import parse_spec
from pilothouse.server import stream_rpc
from pilothouse.server.graph import Graph, build
from pilothouse.server.rpc import start_rpc
from pilothouse.server.settings import Settings
from pilothouse.storage import StorageUnavailable, Tx
from pilothouse.wire.stream.v1 import stream_pb2 as pb
from pilothouse.wire.stream.v1.stream_pb2_grpc import StreamServiceStub
from support.status_checks import PUBLIC_EVENTS
from support.waiting import PATIENCE, eventually

READERS, AGENTS = 25, 40
SPEC = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"


class Counting(ProtoFormat):
    """Counts what it encodes: (format, offset)."""

    counted: Counter[tuple[str, int]] = Counter()

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """One entry."""
        self.counted[self.key, entry.offset] += 1
        return super().encode(entry)


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Graph, Any, str]]:
    """A server's services with their gRPC server in this process, a stub, and a token."""
    monkeypatch.setattr(stream_rpc, "ProtoFormat", Counting)
    monkeypatch.setattr(Counting, "counted", Counter())
    settings = Settings(data_dir=tmp_path, grpc_port=0, ratelimit_default="off", ratelimit_login="off")
    graph = build(settings)
    graph.writer.start(graph.journal)
    await graph.service(Identity).bootstrap("correct horse battery")
    server, port = await start_rpc(graph)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield graph, StreamServiceStub(channel), await graph.service(Identity).issue_local_token()
    await server.stop(None)
    await graph.writer.stop()
    graph.service(Identity).close()
    graph.journal.feed.close()
    graph.database.close()


async def register(graph: Graph, number: int) -> None:
    """An entry about a new agent."""

    def use_case(tx: Tx) -> None:
        token = graph.service(Fleet).registry.create_registration_token(
            tx, SYSTEM, description="", max_uses=1, expires_in=None
        )
        profile = AgentProfile(f"agent-{number}")
        graph.service(Fleet).registry.register(
            tx, profile, registration_token=str(token["token"]), own_token=""
        )

    await graph.writer.write(use_case)


async def started(graph: Graph) -> Run:
    """A run whose one step waits for an agent."""
    project = await graph.storage.read(graph.service(Identity).projects.default)
    new = NewRun("pipeline", "build", project, compile_spec(parse_spec(SPEC).spec))
    return await graph.writer.write(lambda tx: graph.service(Engine).start(tx, SYSTEM, new))


async def cancelled(graph: Graph, run: Run) -> None:
    """It ends."""
    await graph.writer.write(lambda tx: graph.service(Engine).cancel(tx, SYSTEM, run.id, ""))


async def read(call: Any, count: int) -> list[Any]:
    return [await call.read() for _ in range(count)]


def metadata(token: str, cursor: str = "") -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}"), *([("pilot-cursor", cursor)] if cursor else [])]


async def test_an_entry_is_encoded_once_for_all(served: tuple[Graph, Any, str]) -> None:
    """However many follow it, whatever they filter, and whichever end they wait for."""
    graph, stub, token = served
    now = metadata(token, "now")
    run = await started(graph)
    attempt = run.jobs[0].steps[0].current
    agents = [stub.StreamAgentStatus(pb.StreamAgentStatusRequest(), metadata=now) for _ in range(READERS)]
    filters = [
        pb.StreamEventsRequest(resource_type="agent"),
        pb.StreamEventsRequest(event_types=[pb.EVENT_TYPE_AGENT_REGISTERED]),
    ]
    events = [stub.StreamEvents(filters[n % 2], metadata=now) for n in range(READERS)]
    runs = [
        pb.StreamStepRunStatusRequest(),
        pb.StreamStepRunStatusRequest(pipeline_run_id=run.id),
        pb.StreamStepRunStatusRequest(job_id=run.jobs[0].id),
        pb.StreamStepRunStatusRequest(step_run_ids=[attempt]),
    ]
    steps = [stub.StreamStepRunStatus(runs[n % 4], metadata=now) for n in range(READERS)]
    for call in (*agents, *events, *steps):
        await call.initial_metadata()
    for number in range(AGENTS):
        await register(graph, number)
    await cancelled(graph, run)
    names = [f"agent-{number}" for number in range(AGENTS)]
    for call in agents:
        assert [m.agent_id for m in await read(call, AGENTS)] == names
    for call in events:
        assert [m.resource_id for m in await read(call, AGENTS)] == names
    for call in steps:
        assert [m.step_run_id for m in await read(call, 1)] == [attempt]
    shown = Counter(key for key, _ in Counting.counted)
    assert (shown["stream.v1/agent"], shown["stream.v1/event"]) == (AGENTS, AGENTS)
    assert shown["stream.v1/step-run"] >= 1
    assert set(Counting.counted.values()) == {1}, "nothing was encoded for one reader alone"
    for call in (*agents, *events, *steps):
        call.cancel()


class Late:
    """An event loop that gets the writer's notifications with a delay."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def create_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.2, call, *arguments)


async def test_what_is_committed_but_not_published_yet(
    served: tuple[Graph, Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the present, so it does not come once more; what follows it comes."""
    graph, stub, token = served
    monkeypatch.setattr(graph.writer, "_loop", Late(asyncio.get_running_loop()))
    registering = asyncio.create_task(register(graph, 1))

    def committed() -> bool:
        with graph.database.read() as conn:
            return fleet_store.agent(conn, "agent-1") is not None

    await eventually(committed)
    assert not registering.done()
    held_from = graph.journal.feed.window.start
    call = stub.StreamAgentStatus(pb.StreamAgentStatusRequest(), metadata=metadata(token))
    [present] = await read(call, 1)
    assert (present.agent_id, present.previous_status) == ("agent-1", 0)
    await registering
    await register(graph, 2)
    assert [m.agent_id for m in await read(call, 1)] == ["agent-2"]
    assert graph.journal.feed.window.start == held_from, "nobody had to read from disk for that"
    call.cancel()


async def test_what_another_server_has_committed(served: tuple[Graph, Any, str]) -> None:
    """Not notified yet; all entries are read nevertheless, and then the end."""
    graph, stub, token = served
    run = await started(graph)
    place = Cursor(graph.journal.feed.window.head).text(graph.journal.epoch)
    other = build(graph.settings)
    other.writer.start(other.journal)
    await cancelled(other, run)
    request = pb.StreamPipelineStatusRequest(pipeline_run_ids=[run.id])
    for cursor, states in [
        (place, ["running", "cancelled"]),  # its job has ended, then it has
        ("start", ["pending", "running", "running", "running", "cancelled"]),
        ("", ["cancelled"]),
    ]:
        call = stub.StreamPipelineStatus(request, metadata=metadata(token, cursor))
        async with asyncio.timeout(PATIENCE):
            assert [m.state async for m in call] == states
    await other.writer.stop()
    other.service(Identity).close()
    other.journal.feed.close()
    other.database.close()


@pytest.mark.parametrize("cursor", ["", "now", "start"])
async def test_what_ends_while_a_call_begins(
    served: tuple[Graph, Any, str], monkeypatch: pytest.MonkeyPatch, cursor: str
) -> None:
    """Between the look at how things stand and the first of what comes; the end is not missed."""
    graph, stub, token = served
    run = await started(graph)
    feed, reader = graph.journal.feed, graph.journal.feed.reader

    async def late(*arguments: Any) -> Any:
        await cancelled(graph, run)
        return await reader(*arguments)

    monkeypatch.setattr(feed, "reader", late)
    request = pb.StreamPipelineStatusRequest(pipeline_run_ids=[run.id])
    call = stub.StreamPipelineStatus(request, metadata=metadata(token, cursor))
    async with asyncio.timeout(PATIENCE):
        states = [m.state async for m in call]
    assert states[-1] == "cancelled"
    assert states.count("cancelled") == 1
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("what", ["read", "load"])
async def test_a_database_that_does_not_answer(
    served: tuple[Graph, Any, str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Before the call is understood, or while its past is read: it is to come back."""
    graph, stub, token = served
    await register(graph, 1)

    async def down(*_: Any) -> None:
        raise StorageUnavailable("the operator's words")

    monkeypatch.setattr(graph.storage if what == "read" else graph.journal.feed, what, down)
    call = stub.StreamAgentStatus(pb.StreamAgentStatusRequest(), metadata=metadata(token, "start"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE):
            await read(call, 1)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "operator" not in str(caught.value.details())
    assert graph.journal.feed.followers == 0


class Blocked:
    """A client that does not read: writes of the call block."""

    def __init__(self, *given: tuple[str, str]) -> None:
        self._given = given
        self.written: list[bytes] = []
        self.go_on = asyncio.Event()
        self.status: tuple[grpc.StatusCode, str] | None = None

    def invocation_metadata(self) -> Any:
        return self._given

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def send_initial_metadata(self, _metadata: Any) -> None:
        pass

    async def write(self, message: bytes) -> None:
        self.written.append(message)
        await self.go_on.wait()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> None:
        self.status = (code, details)
        raise grpc.aio.AbortError


@pytest.mark.parametrize("why", ["revoked", "stopping"])
async def test_nothing_is_written_after_the_stop(served: tuple[Graph, Any, str], why: str) -> None:
    """Not even what had been taken from the journal before."""
    graph, _, token = served
    service = stream_rpc.StreamService(
        graph.service(Identity),
        graph.journal.feed,
        graph.storage,
        PUBLIC_EVENTS,
        graph.service(AgentChannels),
    )
    for number in range(10):
        await register(graph, number)
    client: Any = Blocked(*metadata(token, "start"))
    call = asyncio.create_task(service.agents(pb.StreamAgentStatusRequest(), client))
    await eventually(lambda: len(client.written) == 1)
    if why == "revoked":
        await graph.service(Identity).logout(await graph.service(Identity).authenticate(token))
    else:
        graph.journal.feed.stop_all()
    client.go_on.set()
    with pytest.raises(grpc.aio.AbortError):
        await call
    assert len(client.written) == 1
    expected = grpc.StatusCode.UNAUTHENTICATED if why == "revoked" else grpc.StatusCode.UNAVAILABLE
    assert client.status is not None
    assert client.status[0] is expected
    assert graph.journal.feed.followers == 0
