"""A third-party agent: uses gRPC and the contract's wire table, and none of the product's code.

Each step is served by a :class:`Script`, or by hand: ``task = await agent.task()`` and then :meth:`ack`,
:meth:`push`, :meth:`finish`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from support.waiting import PATIENCE
from support.wire_table import table

RUNNING, SUCCESS, FAILED, CANCELLED = 3, 4, 5, 6
ACK_OK, ACK_FAILED = 1, 2
NONE, GZIP, ZSTD = 1, 2, 3


@dataclass(frozen=True)
class Script:
    """What the agent does with a step. ``then``: exit, hang (say nothing more), or vanish (drop the line)."""

    lines: Sequence[str] = ()
    exit_code: int = 0
    acks: bool = True
    then: str = "exit"


def batch(
    step_run_id: str,
    seq: int,
    data: bytes | Iterable[str],
    *,
    id: str = "",
    agent_id: str = "",
    **fields: Any,
) -> Any:
    """A ``PushLogsRequest`` of one batch."""
    if not isinstance(data, bytes):
        data = "".join(f"{line}\n" for line in data).encode()
    request = table().message("gateway.v1.PushLogsRequest")()
    made = request.batch
    made.batch_id, made.data = id or f"batch-{seq}", data
    made.compression, made.raw_size = NONE, len(data)
    made.meta.step_id, made.meta.seq, made.meta.agent_id = step_run_id, seq, agent_id
    for name, value in fields.items():
        setattr(made, name, value)
    return request


def events(*told: tuple[str, int, str, str, Mapping[str, Any]]) -> Any:
    """A ``PushEventsRequest``: (event id, seq, step run id, type, payload) each."""
    request = table().message("gateway.v1.PushEventsRequest")()
    request.batch.batch_id = "events"
    for event_id, seq, step_run_id, type, payload in told:
        event = request.batch.events.add(event_id=event_id, event_type=type)
        event.meta.seq, event.meta.step_id = seq, step_run_id
        event.payload.update(dict(payload))
    return request


@dataclass
class FakeAgent:
    """One agent. ``label only=<id>`` is its own, so that a test's steps reach its agent and no other."""

    address: str
    agent_id: str
    slots: int = 4
    labels: dict[str, str] = field(default_factory=dict)
    token: str = ""
    seq: int = 0

    def __post_init__(self) -> None:
        self.channel: grpc.aio.Channel | None = None
        self.received: list[Any] = []
        self.cancelled: dict[str, str] = {}
        self.closed: asyncio.Future[tuple[grpc.StatusCode, str]] | None = None
        self._tasks: asyncio.Queue[Any] = asyncio.Queue()
        self._say: asyncio.Queue[Any] = asyncio.Queue()
        self._jobs: set[asyncio.Task[None]] = set()
        self._call: Any = None
        self._pushing = asyncio.Lock()

    async def __aenter__(self) -> FakeAgent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()

    # -- calls ------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Who calls."""
        return (("authorization", f"Bearer {self.token}"),)

    def rpc(self, method: str) -> Any:
        """A method of the table on this agent's channel."""
        if self.channel is None:
            self.channel = grpc.aio.insecure_channel(
                self.address, [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
            )
        return table().rpc(self.channel, method)

    async def call(self, method: str, metadata: Any = None, **fields: Any) -> Any:
        """A unary call."""
        request = table().message(table().methods[method][0])(**fields)
        given = self.metadata if metadata is None else metadata
        return await self.rpc(method)(request, metadata=given, timeout=PATIENCE)

    async def register(self, registration_token: str = "", **fields: Any) -> Any:
        """Become an agent; a registration token brings a credential."""
        answer = await self.call(
            "agent.v1.AgentService/Register",
            metadata=() if registration_token else None,
            agent_id=self.agent_id,
            registration_token=registration_token,
            max_concurrent_step_runs=self.slots,
            labels={"only": self.agent_id, **self.labels},
            **fields,
        )
        self.token = answer.auth_token or self.token
        return answer

    async def push(self, *requests: Any, metadata: Iterable[tuple[str, str]] = ()) -> Any:
        """``PushLogs``: the ack of one call of these messages."""
        call = self.rpc("gateway.v1.GatewayService/PushLogs")
        answer = await call(iter(requests), metadata=(*self.metadata, *metadata), timeout=PATIENCE)
        return answer.ack

    async def push_events(self, *requests: Any) -> Any:
        """``PushEvents``: the ack of one call."""
        call = self.rpc("gateway.v1.GatewayService/PushEvents")
        return (await call(iter(requests), metadata=self.metadata, timeout=PATIENCE)).ack

    async def lines(self, step_run_id: str, lines: Sequence[str]) -> Any:
        """One batch under the next sequence number; it must be accepted."""
        async with self._pushing:
            self.seq += 1
            ack = await self.push(batch(step_run_id, self.seq, lines, agent_id=self.agent_id))
        assert (ack.status, ack.last_accepted_seq) == (1, self.seq), ack
        return ack

    # -- the control channel ----------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open ``Connect`` and send the first heartbeat."""
        self._say = asyncio.Queue()
        self.closed = asyncio.get_running_loop().create_future()
        call = self.rpc("agent.v1.AgentService/Connect")(self._speak(self._say), metadata=self.metadata)
        self._call = call
        self._spawn(self._listen(call, self.closed))
        await self.beat()
        await call.wait_for_connection()

    async def beat(self) -> None:
        """One heartbeat."""
        await self.say(heartbeat={"status": 1, "max_concurrent_step_runs": self.slots})

    async def say(self, **payload: Any) -> None:
        """One message on the control channel."""
        message = table().message("agent.v1.ConnectRequest")
        await self._say.put(message(agent_id=self.agent_id, **payload))

    async def task(self, timeout: float = PATIENCE) -> Any:
        """The next step run handed out; ``ack`` and ``finish`` it."""
        async with asyncio.timeout(timeout):
            return await self._tasks.get()

    async def ack(self, task: Any, status: int = ACK_OK) -> None:
        """Report the step as started (or refused)."""
        await self.say(task_ack={"command_id": task.command_id, "status": status})

    async def finish(self, task: Any, status: int = SUCCESS, exit_code: int = 0) -> None:
        """Report the step's end."""
        step = task.step_run_id
        await self.say(task_status={"step_run_id": step, "status": status, "exit_code": exit_code})

    async def report(self, step_run_id: str, status: int = SUCCESS, exit_code: int = 0) -> Any:
        """The same, with an answer."""
        return await self.call(
            "agent.v1.AgentService/ReportStepRunStatus",
            agent_id=self.agent_id,
            step_run_id=step_run_id,
            status=status,
            exit_code=exit_code,
        )

    async def serve(self, scripts: Mapping[str, Script]) -> None:
        """Serve each step by the script of its name, until the connection ends."""
        while True:
            task = await self.task(60)
            self._spawn(self._play(task, scripts[task.step_name]))

    async def vanish(self) -> None:
        """Close every connection without a close message."""
        for job in list(self._jobs):
            job.cancel()
        if self._call is not None:
            self._call.cancel()
        if self.channel is not None:
            await self.channel.close()
        self.channel = self._call = None
        await asyncio.gather(*self._jobs, return_exceptions=True)

    # -- inner ------------------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _play(self, task: Any, script: Script) -> None:
        if script.acks:
            await self.ack(task)
        if script.lines:
            await self.lines(task.step_run_id, script.lines)
        if script.then == "exit":
            status = FAILED if script.exit_code else SUCCESS
            await self.finish(task, status, script.exit_code)
        elif script.then == "vanish":
            self._spawn(self.vanish())

    @staticmethod
    async def _speak(say: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while (message := await say.get()) is not None:
            yield message

    async def hang_up(self) -> None:
        """Half-close the control channel."""
        await self._say.put(None)

    async def _listen(self, call: Any, closed: asyncio.Future[tuple[grpc.StatusCode, str]]) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            async for command in call:
                self.received.append(command)
                kind = command.WhichOneof("payload")
                if kind == "task_cancel":
                    self.cancelled[command.task_cancel.step_run_id] = command.task_cancel.reason
                for step in command.task_dispatch.step_runs:
                    await self._tasks.put(Task(command.command_id, step))
        if not closed.done():
            closed.set_result((await call.code(), await call.details()))


@dataclass(frozen=True)
class Task:
    """A step run and the command that brought it."""

    command_id: str
    step: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)


async def registered(server: Any, agent_id: str, **fields: Any) -> FakeAgent:
    """A registered and connected agent of this server, in place of an earlier one of that name."""
    agent = FakeAgent(server.grpc, agent_id, **fields)
    await agent.register(server.registration_token(max_uses=1, agents=[agent_id]))
    await agent.connect()
    return agent
