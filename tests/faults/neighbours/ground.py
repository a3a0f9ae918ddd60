"""What an attack has: the server, credentials of every kind, and a place to count the answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from faults.neighbours.client import Answer, Client
from support.fake_agent import FakeAgent
from support.wire_table import table

SOURCE = "127.0.66.{}"
"""Where an attack's connections come from; each has an address of its own, so that what was counted against the one
before does not blunt it."""
CROWD = 12
"""Addresses of an attack that comes from several."""


@dataclass
class Ground:
    """``given``: ports, tokens by role, projects, pipelines (``stage.py``); ``kept``: what an attack has prepared.

    ``seen``: how often there was which answer; ``until``: when the phase is over; ``stack``: what is closed after the attack.
    """

    given: dict[str, Any]
    seen: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Any] = field(default_factory=dict)
    until: float = 0.0
    grpc: str = ""
    source: str = SOURCE.format(1)

    def __post_init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self.client = Client(self.given["port"], self.source)
        self._number = itertools.count(time.time_ns() % 1_000_000_000)
        host, _, last = self.source.rpartition(".")
        crowd = [
            Client(self.given["port"], f"{host.replace('.66', f'.{100 + n}')}.{last}") for n in range(CROWD)
        ]
        self._crowd = itertools.cycle(crowd)
        self._turns = {role: itertools.cycle(tokens) for role, tokens in self.given["tokens"].items()}

    @property
    def time(self) -> bool:
        """Whether there is time left in this phase."""
        return time.monotonic() < self.until

    def token(self, role: str) -> str:
        """The next token of this role, in turns."""
        return str(next(self._turns[role]))

    def name(self, prefix: str = "x") -> str:
        """A name that nothing has."""
        return f"{prefix}-{next(self._number)}"

    def count(self, outcome: str) -> None:
        """One more of these."""
        self.seen[outcome] += 1

    async def once(self, key: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """What was prepared under this name, or is now."""
        if key not in self.kept:
            self.kept[key] = await make()
        return self.kept[key]

    async def mint(self, role: str) -> None:
        """A new token of each user of this role, since those that there are have been counted; gone with the attack."""
        tokens = []
        for session in self.given["tokens"][role]:
            made = await self.detail("POST", "tokens", session, {"name": self.name("t")})
            tokens.append(made["token"])
            self.stack.push_async_callback(self.client.ask, "DELETE", f"tokens/{made['id']}", session)
        self._turns[role] = itertools.cycle(tokens)

    # -- HTTP ---------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, token: str = "", body: Any = None, **more: Any) -> Answer:
        """One request whose answer counts. A ``body`` that is not bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        answer = await self.client.ask(method, path, token, body, **more)
        self.count(answer.outcome)
        return answer

    async def stranger(
        self, method: str, path: str, token: str = "", body: bytes | None = None, **more: Any
    ) -> Answer:
        """One request, from the addresses of a crowd in turns."""
        answer = await next(self._crowd).ask(method, path, token, body, **more)
        self.count(answer.outcome)
        return answer

    async def detail(self, method: str, path: str, token: str, body: Any = None) -> Any:
        """The same where it must succeed, in preparation; what the answer says."""
        sent = None if body is None else json.dumps(body).encode()
        answer = await self.client.ask(method, path, token, sent)
        assert 200 <= answer.status < 300, f"{method} {path}: {answer.outcome} {answer.body[:300]!r}"
        found = json.loads(answer.body)
        return found.get("detail", found) if isinstance(found, dict) else found

    async def pipeline(self, spec: Any, token: str = "") -> str:
        """A new pipeline of the abused project with this spec."""
        token = token or self.token("setup")
        body = {"name": self.name("p"), "projectId": self.given["project"]}
        made = str((await self.detail("POST", "pipelines", token, body))["pipelineId"])
        await self.detail("POST", f"pipelines/{made}/spec/save", token, {"spec": spec})
        return made

    # -- gRPC ---------------------------------------------------------------------------------------------

    def channel(self) -> grpc.aio.Channel:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        return grpc.aio.insecure_channel(self.grpc, options)

    async def call(self, calling: Any, patience: float = 20.0) -> Any:
        """A call, a unary one or the first message of a stream; its status is counted."""
        try:
            async with asyncio.timeout(patience):
                answer = await (calling.read() if hasattr(calling, "read") else calling)
        except grpc.aio.AioRpcError as error:
            self.count(status(error))
            return None
        except TimeoutError:
            self.count("no answer")
            return None
        self.count("OK")
        return answer

    async def rogue(self, count: int = 1, more_jobs: Any = (), **more: Any) -> tuple[FakeAgent, list[str]]:
        """An agent in its right, and the step runs that it has begun: that many, each of a job with these keys."""
        token = self.token("setup")
        name = self.name("rogue")
        made = await self.detail("POST", "registration-tokens", token, {"agents": [name], "max_uses": 1})
        agent = FakeAgent(self.grpc, name, slots=max(4, count))
        await agent.register(made["token"])
        await agent.connect()
        self.stack.push_async_callback(agent.vanish)
        beating = asyncio.create_task(_beating(agent))
        self.stack.callback(beating.cancel)
        step = {"name": "s", "uses": "shell", "args": {"command": "true"}}
        step |= {"agentSelector": {"matchLabels": {"only": name}}}
        jobs = [{"name": f"j{n}", "steps": [step], **more} for n in range(count)]
        pipeline = await self.pipeline({"jobs": [*jobs, *more_jobs]})
        run = await self.detail("POST", f"pipelines/{pipeline}/trigger", token, {})
        self.kept["run"] = str(run["runId"])
        tasks = [await agent.task() for _ in range(count)]
        for task in tasks:
            await agent.ack(task)
        return agent, [str(task.step_run_id) for task in tasks]


async def _beating(agent: FakeAgent) -> None:
    while True:
        await agent.beat()
        await asyncio.sleep(0.5)


def status(error: grpc.aio.AioRpcError) -> str:
    """``UNAUTHENTICATED AUTH_TOKEN_INVALID``; ``INTERNAL ?`` where there is neither code nor text."""
    told = dict(error.trailing_metadata() or ())
    code = told.get("pilot-code", "")
    name, details = error.code().name, error.details() or ""
    if details == "Internal error from Core" and not code:
        return "ABORTED by the client"  # its library says so of a call that ended while it still sent
    if name in ("INTERNAL", "UNKNOWN", "CANCELLED"):
        return f"{name} {code or details[:80] or '?'}"
    return f"{name} {code}".strip() if code or details else f"{name} ?"


def message(name: str, **fields: Any) -> Any:
    """A message of the wire table."""
    return table().message(name)(**fields)


async def all_of(waves: Iterable[Awaitable[Any]], at_once: int = 50) -> None:
    """Await all of them, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(wave: Awaitable[Any]) -> None:
        async with gate:
            await wave

    await asyncio.gather(*(one(wave) for wave in waves))


@contextlib.asynccontextmanager
async def forwarded(address: str, source: str) -> AsyncIterator[str]:
    """A local address whose connections reach ``address`` from ``source``, since gRPC cannot choose its own."""
    host, _, port = address.rpartition(":")
    tasks: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
        except OSError:
            writer.transport.abort()
            return
        for pipe in (_pipe(reader, theirs[1]), _pipe(theirs[0], writer)):
            task = asyncio.create_task(pipe)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 17):
            writer.write(data)
            await writer.drain()
    writer.transport.abort() if reader.exception() else writer.close()
