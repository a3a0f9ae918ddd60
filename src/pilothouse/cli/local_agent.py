"""The agent of ``pilot up``: a separate process that outlives the server while it runs steps."""

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
_FOR_GOOD = {2: "its settings are invalid", 3: "another agent uses its identity", 4: "the server rejected it"}
_REFUSED = 4
_IN_USE = 5
_LOOK = 0.5
_STABLE = 60.0
_STOP_PATIENCE = 8.0
_LINGER = 900
_FOR_AGENT = ("PILOT_OBJECT_CACHE", "PILOT_MAX_CHECKOUT", "PILOT_MAX_ARTIFACT")
_MAX_LOG = 16 << 20
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
"""RLIMIT_NOFILE at startup: the server raises its own limit, which steps must not inherit."""


class LocalAgent:
    """Supervises one agent on the data directory: adopts a running one, else starts a child process.

    The child has its own session, so that Ctrl-C reaches only the server. An unregistered child gets its registration
    token through stdin, since steps can read its arguments and environment.
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
        """Path of the agent's log."""
        return self._dir / "agent.log"

    def start(self) -> None:
        """Start supervision."""
        self._keeping = asyncio.create_task(self._keep())

    async def release(self) -> None:
        """Stop supervision; the agent keeps running."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def stop(self) -> None:
        """Terminate the agent, including an adopted one."""
        await self.release()
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

    # -- supervision ------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        delay = 0.5
        while True:
            holder = await self._holder()
            if holder is not None:
                await self._adopt(holder)
                continue
            began = time.monotonic()
            try:
                code = await self._run_child()
            except Exception as error:  # possibly transient, e.g. a full disk
                self._out.say(f"The local agent cannot be started ({error}); retrying.", "red")
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)
                continue
            if code == _REFUSED and not self._enrolling:
                self._refused = True  # a new or restored server does not know the agent
                continue
            if code in _FOR_GOOD:
                self._out.say(f"The local agent exited: {_FOR_GOOD[code]}. Its log: {self.log}", "red")
                return
            if time.monotonic() - began > _STABLE:
                delay = 0.5
            if code != _IN_USE:
                self._out.say(f"The local agent exited (exit code {code}); restarting it. Log: {self.log}")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 30.0)

    async def _adopt(self, holder: LockHolder) -> None:
        """Adopt a running agent, unless it was started for another address."""
        if self._started_for() not in (None, self._addresses()):
            self._out.say(
                f"Agent {holder.agent_id} (process {holder.pid}) is connected to another address; replacing it."
            )
            await self._end(holder.pid)
            return
        self._out.note(f"agent {holder.agent_id} (process {holder.pid}) is already running")
        while await self._holder() is not None:  # noqa: ASYNC110 - a lock held by another process cannot be awaited
            await asyncio.sleep(_LOOK)

    async def _run_child(self) -> int:
        """Start an agent and wait for it; returns its exit code."""
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
        """The environment without settings and secrets of the server.

        Proxies are bypassed: the server is on this machine.
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

    # -- state on disk ----------------------------------------------------------------------------------

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
        """Send SIGTERM, then SIGKILL after a timeout."""
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
