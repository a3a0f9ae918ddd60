"""A run on a private server and agent, which end with it (docs/decisions/0020-exec.md).

Both run in this process, on loopback ports, with a temporary data directory. If this process is killed, the guard of
the agent ends the processes of steps; the directory is removed by a later command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets as random
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilothouse.cli.addresses import reachable, reachable_host
from pilothouse.cli.checkout.options import sent_limit
from pilothouse.cli.errors import RUN_OUTCOMES, CliError, ExitCode
from pilothouse.cli.imports import client_imports, deferred_models, process_imports
from pilothouse.cli.server import server_settings
from pilothouse.cli.session import Session
from pilothouse.cli.starting import Order, start
from pilothouse.cli.watching import watch

if TYPE_CHECKING:
    from pilothouse.agent.settings import AgentSettings
    from pilothouse.client import Event
    from pilothouse.server.main import Ready
    from pilothouse.server.settings import Settings

AGENT = "local"
LABELS = {"local": "true"}
_PREFIX = "pilot-exec-"
_STALE = 600.0
"""Seconds after which a directory without a server is a remnant: a new one is locked within moments."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """``secrets``: their values by name; ``labels``: those of the agent; ``yes``: approve every gate."""

    secrets: Mapping[str, str]
    labels: Mapping[str, str]
    yes: bool


class LocalRun:
    """One run. Ctrl-C cancels it, a second one skips its cleanup steps, a third one stops at once."""

    def __init__(self, session: Session, order: Order, wishes: Wishes) -> None:
        self._session = session
        self._order = order
        self._wishes = wishes
        self._data_dir = Path()
        self._stop = asyncio.Event()
        self._working: asyncio.Task[str] | None = None
        self._others: set[asyncio.Task[None]] = set()
        self._asking = asyncio.Lock()
        self._run_id = ""
        self._signals = 0
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def run(self) -> int:
        """Run it; returns the exit code."""
        # Otherwise gRPC prints a warning about fork support.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        with process_imports(), deferred_models():
            import uvloop

            from pilothouse.server.main import serve
        with _directory() as directory:
            self._data_dir = directory

            async def whole() -> int:
                code = await serve(self._settings(), on_ready=self._ready, stop=self._stop, announce=False)
                return code or await self._result()

            return uvloop.run(whole())

    async def _result(self) -> int:
        if self._working is None:
            return ExitCode.INTERRUPTED
        try:
            return RUN_OUTCOMES.get(await self._working, ExitCode.ERROR)
        except asyncio.CancelledError:
            return ExitCode.INTERRUPTED

    def _settings(self) -> Settings:
        return server_settings(
            self._session.out,
            host="127.0.0.1",
            port=0,
            grpc_port=0,
            data_dir=self._data_dir,
            admin_password=random.token_urlsafe(32),
            ratelimit_default="off",
            max_blob=max(sent_limit(), 256 << 20),
            workers=1,
            notify=False,
            log_level="error",
            # Of the user who runs it, in place of a file in the data directory.
            git_known_hosts=None if "PILOT_GIT_KNOWN_HOSTS" in os.environ else _known_hosts(),
        )

    async def _ready(self, ready: Ready) -> None:
        if self._stop.is_set():  # interrupted during the start
            return
        # The server has raised its limit, which steps must not inherit.
        resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
        loop = asyncio.get_running_loop()
        self._working = loop.create_task(self._work(ready))
        self._working.add_done_callback(lambda _done: self._stop.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Replaces the server's own handlers: the run is cancelled while the server still works.
            loop.add_signal_handler(number, self._signalled, number)

    # -- the run ----------------------------------------------------------------------------------------

    async def _work(self, ready: Ready) -> str:
        """Start and watch the run; returns its status."""
        token = await ready.local_token()
        common = replace(self._session.common, server=reachable(ready.http_url), token=token, context=None)
        self._session = session = replace(self._session, common=common)
        with process_imports(), client_imports():
            from pilothouse.agent.main import run_agent

        ending = asyncio.Event()
        settings = self._agent_settings(ready, await ready.registration_token(AGENT))
        agent = asyncio.create_task(run_agent(settings, ending))
        running = asyncio.create_task(self._started(session))
        try:
            await asyncio.wait({agent, running}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise CliError(f"the agent of this run has ended (exit code {agent.result()})")
            return running.result()
        finally:
            for unneeded in (running, *self._others):
                unneeded.cancel()
            ending.set()
            await asyncio.wait({agent, running, *self._others})

    async def _started(self, session: Session) -> str:
        async with session.client() as client:
            for name, value in self._wishes.secrets.items():
                await client.secrets.set(name, value)
        self._run_id = await start(session, self._order)
        return await watch(session, self._run_id, self._order.progress, on_gate=self._gate_opened)

    def _agent_settings(self, ready: Ready, token: str) -> AgentSettings:
        from pilothouse.agent.settings import AgentSettings

        return AgentSettings(
            server=reachable(ready.http_url),
            grpc=reachable_host(ready.grpc_address),
            token=token,
            agent_id=AGENT,
            name=AGENT,
            labels=self._wishes.labels,
            slots=max(4, os.cpu_count() or 1),
            data_dir=self._data_dir / "agent",
            max_checkout=sent_limit(),
        )

    # -- gates ------------------------------------------------------------------------------------------

    def _gate_opened(self, event: Event) -> None:
        from pilothouse.cli.local_gates import decide

        if event.data["gate"] == "hold":
            self._beside(decide(self._session, event.data, self._asking, yes=self._wishes.yes))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    # -- signals ----------------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        self._signals += 1
        assert self._working is not None, "signal handlers are installed once it works"
        if not self._run_id or self._signals > 2:
            self._working.cancel()
        else:
            self._beside(self._cancel(force=self._signals > 1 or number != signal.SIGINT))

    async def _cancel(self, *, force: bool) -> None:
        from pilothouse.client import ApiProblem

        if not force:
            self._session.out.note("cancelling; press Ctrl-C again to skip cleanup steps")
        with contextlib.suppress(ApiProblem):  # it has ended
            async with self._session.client() as client:
                await client.runs.cancel(self._run_id, "interrupted", force=force)


def _known_hosts() -> Path:
    return Path.home() / ".ssh" / "known_hosts"


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """A temporary directory that only this user can read. Remnants of killed commands are removed, too."""
    from pilothouse.agent.removal import remove_quietly

    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        for stale in _remnants(made):
            remove_quietly(stale)
        yield made
    finally:
        remove_quietly(made)


def _remnants(own: Path) -> Iterator[Path]:
    from pilothouse.cli.local_context import server_runs

    for found in own.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            about = found.lstat()
            old = time.time() - about.st_mtime > _STALE
            if found != own and about.st_uid == os.getuid() and old and not server_runs(found):
                yield found
