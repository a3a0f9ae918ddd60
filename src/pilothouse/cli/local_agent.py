"""The agent of ``pilot up``: a process of its own, that outlives the server while it has work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from pilothouse.agent.lock import LockHolder, lock_holder
from pilothouse.cli.addresses import reachable, reachable_host
from pilothouse.cli.output import Output
from pilothouse.wire.proxies import is_loopback

if TYPE_CHECKING:
    from pilothouse.server.main import Ready
    from pilothouse.server.settings import Settings

AGENT_NAME = "local"
_FOR_GOOD = {2: "it does not take its settings", 3: "another agent has its identity", 4: "it was refused"}
_REFUSED = 4
_IN_USE = 5
_LOOK = 0.5
_STABLE = 60.0
_STOP_PATIENCE = 8.0
_LINGER = 900
_FOR_AGENT = ("PILOT_OBJECT_CACHE", "PILOT_MAX_CHECKOUT")
_MAX_LOG = 16 << 20
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
"""As at the start: the server raises its own limit, which steps are not to inherit."""


class LocalAgent:
    """Keeps one agent alive on the data directory: takes up one that is there, else starts a child.

    The child has its own session, so that Ctrl-C is for the server alone. A child that has no token of its own
    yet gets one to register with through its stdin: arguments and environment can be read by its steps.
    """

    def __init__(self, settings: Settings, ready: Ready, out: Output) -> None:
        self._dir = (settings.data_dir / "agent").absolute()
        self._ca = settings.tls_cert
        self._ready = ready
        self._out = out
        self._child: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._enrolling = self._refused = False

    @property
    def log(self) -> Path:
        """What the agent says."""
        return self._dir / "agent.log"

    def start(self) -> None:
        """Begin to keep an agent alive."""
        self._keeping = asyncio.create_task(self._keep())

    async def let_go(self) -> None:
        """Leave the agent to itself."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def stop(self) -> None:
        """End the agent, whoever started it."""
        await self.let_go()
        holder = await self._holder()
        pid = (
            holder.pid
            if holder
            else self._child.pid
            if self._child and self._child.returncode is None
            else None
        )
        if pid is not None:
            await self._end(pid)

    # -- keeping it alive -------------------------------------------------------------------------------

    async def _keep(self) -> None:
        delay = 0.5
        while True:
            holder = await self._holder()
            if holder is not None:
                await self._take_up(holder)
                continue
            began = time.monotonic()
            try:
                code = await self._run_child()
            except Exception as error:  # a full disk, say: there may be room again
                self._out.say(f"The local agent cannot be started ({error}); trying again.", "red")
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)
                continue
            if code == _REFUSED and not self._enrolling:
                self._refused = True  # another server, or a restored one: it does not know the agent
                continue
            if code in _FOR_GOOD:
                self._out.say(f"The local agent has ended: {_FOR_GOOD[code]}. Its log: {self.log}", "red")
                return
            if time.monotonic() - began > _STABLE:
                delay = 0.5
            if code != _IN_USE:
                self._out.say(
                    f"The local agent has ended (exit code {code}); starting it again. Its log: {self.log}"
                )
            await asyncio.sleep(delay)
            delay = min(delay * 2, 30.0)

    async def _take_up(self, holder: LockHolder) -> None:
        """Live with an agent that is there already, unless it was started for another address."""
        if self._started_for() not in (None, self._addresses()):
            self._out.say(
                f"Agent {holder.agent_id} (process {holder.pid}) works for another address; replacing it."
            )
            await self._end(holder.pid)
            return
        self._out.note(f"agent {holder.agent_id} (process {holder.pid}) is here already")
        while await self._holder() is not None:  # noqa: ASYNC110 - another process's lock rings no bell
            await asyncio.sleep(_LOOK)

    async def _run_child(self) -> int:
        """Start an agent and wait until it ends; returns its exit code."""
        self._enrolling, self._refused = self._refused or not (self._dir / "credential").exists(), False
        token = await self._ready.registration_token(AGENT_NAME) if self._enrolling else ""
        with await asyncio.to_thread(self._open_log) as log:
            self._child = child = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=PIPE if token else DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, _FILES)
        if child.stdin is not None:
            child.stdin.write(f"{token}\n".encode())
            child.stdin.close()
        return await child.wait()

    def _environment(self) -> dict[str, str]:
        """What is set for the server is not meant for the agent, and its secrets least of all.

        Whatever proxy there is, the server is on this machine.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PILOT_") or name in _FOR_AGENT
        }
        host = urlsplit(self._addresses()[0]).hostname or ""
        excepted = environment.get("no_proxy", environment.get("NO_PROXY", ""))
        if not is_loopback(host):
            environment["no_proxy"] = f"{excepted},{host}".lstrip(",")
        return environment

    def _command(self) -> list[str]:
        server, grpc = self._addresses()
        options = {
            "--server": server,
            "--grpc": grpc,
            "--name": AGENT_NAME,
            "--platform": "process",
            "--label": "local=true",
            "--slots": str(max(4, os.cpu_count() or 1)),
            "--data-dir": str(self._dir),
            "--linger": str(_LINGER),
        }
        if self._ca is not None:
            options["--grpc-ca"] = str(self._ca.absolute())
        if self._enrolling:
            options["--token-file"] = "-"
        return [
            sys.executable,
            "-P",
            "-m",
            "pilothouse",
            "agent",
            *(word for pair in options.items() for word in pair),
        ]

    def _open_log(self) -> BinaryIO:
        self._dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _MAX_LOG:
                self.log.replace(self.log.with_suffix(".log.1"))
        self._notes.write_text(json.dumps(self._addresses()), "utf-8")
        return self.log.open("ab")

    # -- knowing it again -------------------------------------------------------------------------------

    @property
    def _notes(self) -> Path:
        return self._dir / "started-for.json"

    def _addresses(self) -> tuple[str, str]:
        return reachable(self._ready.http_url), reachable_host(self._ready.grpc_address)

    def _started_for(self) -> tuple[str, str] | None:
        try:
            server, grpc = json.loads(self._notes.read_text("utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return server, grpc

    async def _holder(self) -> LockHolder | None:
        return await asyncio.to_thread(lock_holder, self._dir)

    async def _end(self, pid: int) -> None:
        """Ask it to end, then insist."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + _STOP_PATIENCE
            while time.monotonic() < deadline:
                if self._child is not None and self._child.pid == pid:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._child.wait(), _LOOK)
                        return
                elif await self._holder() is None:
                    return
                else:
                    await asyncio.sleep(0.05)
