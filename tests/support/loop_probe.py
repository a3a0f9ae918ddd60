"""A server in the test's process, and how long its event loop is busy without a pause.

What is measured is CPU time of the loop's thread in one callback, so that other processes do not change the result.
The wall time of a callback would also contain the time in which other threads hold the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio import events
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from pilothouse.server.graph import Graph
from pilothouse.server.main import Ready, serve
from pilothouse.server.settings import Settings
from pilothouse.storage import Writer
from support.server import PASSWORD
from support.waiting import PATIENCE


@dataclass
class Probe:
    """``longest``: seconds of CPU time of the longest callback since :meth:`reset`, and which one it was; ``writing``:
    of the longest use case in the writer."""

    longest: float = 0.0
    which: str = ""
    writing: float = 0.0
    _handle_run: Any = field(default=None, repr=False)

    def reset(self) -> None:
        """Forget what was measured."""
        self.longest, self.which, self.writing = 0.0, "", 0.0


@contextlib.contextmanager
def probing() -> Iterator[Probe]:
    """Measure every callback of event loops of the standard library."""
    probe, run, write = Probe(), events.Handle._run, Writer._run_one

    def measured_write(writer: Writer, *args: Any) -> Any:
        began = time.thread_time()
        try:
            return write(writer, *args)
        finally:
            probe.writing = max(probe.writing, time.thread_time() - began)

    def measured(handle: events.Handle) -> None:
        began = time.thread_time()
        try:
            run(handle)
        finally:
            took = time.thread_time() - began
            if took > probe.longest:
                probe.longest, probe.which = took, repr(handle)

    events.Handle._run = measured  # type: ignore[method-assign]
    Writer._run_one = measured_write  # type: ignore[method-assign]
    try:
        yield probe
    finally:
        events.Handle._run = run  # type: ignore[method-assign]
        Writer._run_one = write  # type: ignore[method-assign]


@dataclass
class Local:
    """A server in this process, and a client with an admin's token."""

    graph: Graph
    url: str
    http: httpx.AsyncClient
    probe: Probe

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send one request; ``path`` is relative to ``/api/v1``."""
        return await self.http.request(method, f"{self.url}/api/v1{path}", **more)

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """The same, where it must succeed: the body, out of its envelope."""
        answer = await self.call(method, path, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        body = answer.json() if answer.content else None
        return body["detail"] if isinstance(body, dict) and body.get("msg") == "success" else body


@contextlib.asynccontextmanager
async def local_server(directory: Path, **settings: Any) -> AsyncIterator[Local]:
    """A server of this process, without rate limits, whose callbacks are measured.

    The client's own callbacks run on the same loop: send large bodies as bytes, and read large answers with care.
    """
    unlimited = dict.fromkeys(("ratelimit_login", "ratelimit_sessions", "ratelimit_default"), "off")
    given: dict[str, Any] = {"port": 0, "grpc_port": 0, "admin_password": PASSWORD, "log_level": "error"}
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def on_ready(what: Ready) -> None:
        ready.set_result(what)

    chosen = Settings(**{**given, **unlimited, "data_dir": directory / "data", **settings})
    with probing() as probe:
        serving = asyncio.create_task(serve(chosen, on_ready=on_ready, stop=stop))
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        assert not serving.done(), "the server did not start"
        found: Ready = ready.result()
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            local = Local(found._graph, found.http_url, http, probe)
            login = {"username": "admin", "password": PASSWORD}
            http.headers["Authorization"] = (
                "Bearer " + (await local.ask("POST", "/auth/login", json=login))["token"]
            )
            try:
                yield local
            finally:
                stop.set()
                await serving
