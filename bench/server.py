"""The real server with a control channel: JSON commands on stdin create work in the running server.

``python -m bench.server SETTINGS`` (JSON). Runs are created by the engine, so that endpoints authorize as usual;
entries go through the writer and the journal. It ends when stdin is closed.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from sqlalchemy import Connection

from pilothouse.access.model import SYSTEM
from pilothouse.engine import store
from pilothouse.engine.graph import Graph as RunGraph
from pilothouse.engine.graph_json import encoded
from pilothouse.engine.model import Run
from pilothouse.engine.names import NamesUsed, names_of
from pilothouse.engine.service import Engine, NewRun
from pilothouse.engine.standing import run_keys
from pilothouse.engine.streams.framing import Framing
from pilothouse.engine.streams.stella import RunMessages
from pilothouse.fleet.service import Fleet
from pilothouse.identity import store as identity_store
from pilothouse.journal import WireFormat
from pilothouse.journal import store as journal_store
from pilothouse.journal.framing import ChunkFramed, WebSocketFramed
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import parse_spec
from pilothouse.server.graph import Graph
from pilothouse.server.main import Ready, serve
from pilothouse.server.settings import Settings
from pilothouse.storage import Tx, driver
from pilothouse.wire import entries

AT_ONCE = 16
"""Concurrent appends in a burst, as in one ``PushLogs`` call."""

Commands = dict[str, Callable[..., Awaitable[dict[str, Any]]]]
"""Handlers by command name; the other keys of a command are the arguments."""

SPEC = """
jobs:
  - name: build
    steps:
      - {name: work, uses: shell, args: {command: "true"}, agentSelector: {matchLabels: {only: nobody}}}
"""


@functools.cache
def _compiled(spec: str) -> tuple[RunGraph, str, NamesUsed]:
    """A spec as the service of pipelines gets it from the workers, once for each saved definition."""
    graph = compile_spec(parse_spec(spec).spec)
    return graph, encoded(graph), names_of(graph)


class Control:
    """The commands."""

    def __init__(self, ready: Ready) -> None:
        self._graph: Graph = ready._graph
        self._runs: dict[str, Run] = {}
        self._lines: dict[str, int] = {}

    async def far(self) -> None:
        """Start offsets at seven digits, so that all cursors of a benchmark have the same length."""
        await self._graph.writer.write(lambda tx: journal_store.reserve(tx.conn, 1_000_000))

    async def run(self, spec: str = SPEC) -> dict[str, Any]:
        """Create a run whose steps wait for an agent."""
        graph = self._graph
        project = await graph.storage.read(identity_store.default_project)
        assert project is not None
        compiled, stored, names = _compiled(spec)
        new = NewRun("pipeline", "bench", project, compiled, stored=stored, names=names)
        run = await graph.writer.write(lambda tx: graph.service(Engine).start(tx, SYSTEM, new))
        self._runs[run.id] = run
        return {"run": run.id}

    async def copies(self, run: str, count: int) -> dict[str, Any]:
        """Store copies of the run that have ended, as a history of runs. On SQLite."""
        names = [f'"{column.name}"' for column in store.runs.c]
        changed = {
            '"id"': "printf('019a0000-0000-7000-8000-%012d', n.i)",
            '"status"': "'succeeded'",
            '"finished_at"': "created_at",
        }
        values = ", ".join(changed.get(name, name) for name in names)
        statement = f"""
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count:d})
        INSERT INTO runs ({", ".join(names)}) SELECT {values} FROM n, runs WHERE runs.id = ?
        """
        await self._graph.writer.write(lambda tx: driver(tx.conn).execute(statement, (run,)) and None)
        return {}

    async def progress(self, run: str, count: int) -> dict[str, Any]:
        """Append ``count`` progress entries in consecutive transactions; returns a sample."""
        body = {**self._keys(run), "percent": 50, "message": "compiling module 17 of 42"}
        for _ in range(count):
            await self._append(run, entries.STEP_PROGRESSED, body)
            await asyncio.sleep(0)  # the loop sends the entry before the next one is appended
        return {"frames": self._frames()}

    async def lines(self, run: str, chunks: list[int], width: int) -> dict[str, Any]:
        """Append a burst of log chunks with these numbers of lines, concurrently."""
        text = "x" * width
        bodies = []
        for size in chunks:
            first = self._lines.get(run, 0) + 1
            self._lines[run] = first + size - 1
            made = [f"{number:08d} {text}"[:width] for number in range(first, first + size)]
            bodies.append({**self._keys(run), "agent_id": "bench", "first": first, "lines": made})
        since = self._graph.journal.feed.window.head
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(body: dict[str, Any]) -> None:
            try:
                await self._append(run, entries.STEP_LOGGED, body)
            finally:
                gate.release()

        tasks = []
        for body in bodies:
            await gate.acquire()
            tasks.append(asyncio.create_task(one(body)))
        await asyncio.gather(*tasks)
        return {"lines": sum(chunks), "sizes": self._sizes(run, since)}

    async def registration(self) -> dict[str, Any]:
        """Create a registration token."""
        graph = self._graph
        made = await graph.writer.write(
            lambda tx: graph.service(Fleet).registry.create_registration_token(
                tx, SYSTEM, description="bench", max_uses=None, expires_in=3600
            )
        )
        return {"token": made["token"]}

    async def statuses(self, runs: list[str]) -> dict[str, Any]:
        """Number of runs by final status."""

        def read(conn: Connection) -> Counter[str]:
            rows = [store.run_row(conn, run) for run in runs]
            return Counter(str(row.status) for row in rows if row is not None)

        return {"statuses": await self._graph.storage.read(read)}

    def _keys(self, run: str) -> dict[str, Any]:
        known = self._runs[run]
        job = known.jobs[0]
        return {**run_keys(known, job, job.steps[0]), "step_run_id": job.steps[0].current, "attempt": 1}

    async def _append(self, run: str, type: str, body: dict[str, Any]) -> None:
        known, journal = self._runs[run], self._graph.journal
        scope, stream = entries.project_scope(known.project), entries.run_stream(run)

        def use_case(tx: Tx) -> None:
            journal.append(tx, stream, type, scope, body, subject=body["step_run_id"])

        await self._graph.writer.write(use_case)

    def _frames(self) -> dict[str, str]:
        """The newest entry as encoded for each transport."""
        feed = self._graph.journal.feed
        entry = feed.window.since(None, feed.window.head - 1, 1)[0]
        return {
            name: base64.b64encode(b"".join(frame.data for frame in entry.frames(fmt))).decode()
            for name, fmt in self._formats().items()
        }

    def _sizes(self, run: str, since: int) -> dict[str, list[int]]:
        """The encoded sizes of a run's entries from an offset on, for each transport."""
        found = self._graph.journal.feed.window.since(entries.run_stream(run), since, 1 << 30)
        return {
            name: [sum(len(frame.data) for frame in entry._frames[fmt.key]) for entry in found]
            for name, fmt in self._formats().items()
            if all(fmt.key in entry._frames for entry in found)
        }

    def _formats(self) -> dict[str, WireFormat]:
        epoch = self._graph.journal.epoch
        return {
            "ws": WebSocketFramed(RunMessages(Framing("ws", epoch))),
            "sse": ChunkFramed(RunMessages(Framing("sse", epoch))),
        }


async def execute_commands(stdin: asyncio.StreamReader, commands: Commands) -> None:
    """Execute commands sequentially until stdin is closed."""
    while line := await stdin.readline():
        order = json.loads(line)
        try:
            answer = await commands[order.pop("do")](**order)
        except Exception as error:  # reported to the caller
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


async def standard_input() -> asyncio.StreamReader:
    """As lines."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(settings: dict[str, Any]) -> int:
    """Run the server with the control channel. Stream heartbeats are off unless the settings enable them."""
    stop = asyncio.Event()
    executing: list[asyncio.Task[None]] = []

    async def on_ready(ready: Ready) -> None:
        control = Control(ready)
        await control.far()
        hello = {
            "port": int(ready.http_url.rpartition(":")[2]),
            "grpc": ready.grpc_address,
            "token": await ready.local_token(),
        }
        commands: Commands = {
            "run": control.run,
            "copies": control.copies,
            "progress": control.progress,
            "lines": control.lines,
            "registration": control.registration,
            "statuses": control.statuses,
        }
        task = asyncio.create_task(execute_commands(await standard_input(), commands))
        task.add_done_callback(lambda _: stop.set())
        executing.append(task)
        print(json.dumps(hello), flush=True)

    calm = {"sse_keepalive": 86_400, "ws_heartbeat": 86_400, "log_level": "error", "log_format": "json"}
    unlimited = {"ratelimit_login": "off", "ratelimit_sessions": "off", "ratelimit_default": "off"}
    return await serve(
        Settings(**{"port": 0, "grpc_port": 0, **calm, **unlimited, **settings}), on_ready=on_ready, stop=stop
    )


if __name__ == "__main__":
    sys.exit(uvloop.run(main(json.loads(sys.argv[1]))))
