"""What the fault tests are made of: a fleet of real processes that can be killed, stopped and looked into.

``PILOT_FAULT_ROUNDS`` says how long they try (1 where it is not set); ``PILOT_FAULT_SEED`` repeats one try.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from support.server import Server
from support.waiting import PATIENCE, slowness

T = TypeVar("T")

ROUNDS = max(1, int(os.environ.get("PILOT_FAULT_ROUNDS", "1")))
LONG = "PILOT_FAULT_ROUNDS" in os.environ
SLOW = slowness()
QUICK = {"agent_heartbeat": 0.5, "agent_offline_after": 2.0 * SLOW, "lease": 3.0 * SLOW}
"""Timings with which an agent is missed soon, but not because the machine is busy."""
PATIENT = {"agent_heartbeat": 0.5, "agent_offline_after": 15.0 * SLOW, "lease": 30.0 * SLOW}
"""Timings with which an agent may be away for as long as it waits between two tries, and both it and the server start."""


def chance(name: str) -> random.Random:
    """Random numbers of one test; which ones is said on stdout, so that a failure can be tried again."""
    seed = os.environ.get("PILOT_FAULT_SEED") or str(time.time_ns() % 1_000_000)
    print(f"PILOT_FAULT_SEED={seed}  ({name})")
    return random.Random(f"{seed} {name}")


def until(condition: Callable[[], T], timeout: float = 60.0, what: str = "it") -> T:
    """Ask until the answer is true, and return it; for tests without an event loop.

    ``timeout``, here and below, is what only something that never happens takes, on however busy a machine.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            answer = condition()
        except httpx.TransportError as error:  # the server is away at this moment
            answer, what = None, f"{what} ({error})"  # type: ignore[assignment]
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(0.03)


class AgentProcess:
    """One ``pilot agent`` in a process of its own. ``label only=<name>`` is its own."""

    def __init__(
        self,
        server: Server,
        directory: Path,
        name: str,
        *,
        slots: int = 4,
        grpc: str = "",
        token: str = "",
        netns: str = "",
    ) -> None:
        """``grpc``: where it finds the server, if not at its own address; ``netns``: its network namespace."""
        self.name, self.slots = name, slots
        self.data_dir = directory / f"agent-{name}"
        self._server, self._grpc, self._netns = server, grpc, netns
        self._token = token or server.registration_token(max_uses=1)
        self._log = directory / f"agent-{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, online: bool = True) -> AgentProcess:
        """(Re)start it on the same data directory and, by default, wait until it has connected."""
        connected = self.said("agent.connected")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        environment["PILOT_AGENT_TOKEN"] = self._token
        options = {
            "--server": self._server.url,
            "--grpc": self._grpc or self._server.grpc,
            "--name": self.name,
            "--label": f"only={self.name}",
            "--slots": str(self.slots),
            "--data-dir": str(self.data_dir),
        }
        command = [
            *(("ip", "netns", "exec", self._netns) if self._netns else ()),
            sys.executable,
            "-m",
            "pilothouse",
            "agent",
            *(w for pair in options.items() for w in pair),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        if online:
            until(lambda: self.said("agent.connected") > connected, 120, f"agent {self.name} connects")
        return self

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs."""
        assert self._process is not None
        return self._process.poll()

    def kill9(self) -> None:
        """No goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE)

    def freeze(self) -> None:
        """Suspend it (SIGSTOP): its sockets stay open, and it sends nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume it (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE)

    def log(self) -> str:
        """Its output."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def said(self, event: str) -> int:
        """How often its log has this event."""
        return self.log().count(f'"event": "{event}"')

    def failures(self) -> list[str]:
        """Unexpected errors in its log."""
        return re.findall(r".*(?:Traceback|never retrieved|\"level\": \"error\").*", self.log())

    def steps(self) -> list[psutil.Process]:
        """Running processes of its steps, found by their workspace regardless of their parent."""
        mark = f"PILOT_WORKSPACE={self.data_dir}".encode()
        return [process for process in psutil.process_iter() if mark in _environment(process.pid)]

    def close(self) -> None:
        """For teardown: it and whatever is left of its steps ends."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.kill()
            self._process.wait(PATIENCE)
        for process in self.steps():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def carrying(text: str) -> list[psutil.Process]:
    """Living processes with this text in their command line, however they were started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(text in word for word in process.cmdline()):
                found.append(process)
    return found


@dataclass
class Fleet:
    """One server and its agents, in one directory; everything ends with it."""

    directory: Path
    server: Server
    agents: list[AgentProcess] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    """Texts in the command lines of processes that must not outlive the test."""
    _told: int = 0

    def agent(self, name: str, **more: Any) -> AgentProcess:
        """A new agent, not yet started."""
        agent = AgentProcess(self.server, self.directory, name, **more)
        self.agents.append(agent)
        return agent

    def close(self) -> None:
        """End all of it."""
        for agent in self.agents:
            agent.close()
        self.server.close()
        for process in [found for mark in self.marks for found in carrying(mark)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def unforeseen(self) -> list[str]:
        """Unexpected errors in the server's log since the last call."""
        found = self.server.failures()
        fresh, self._told = found[self._told :], len(found)
        return fresh

    # -- runs -------------------------------------------------------------------------------------------

    def run(self, name: str, spec: dict[str, Any]) -> str:
        """The id of a new run of a new pipeline."""
        return self.server.trigger(self.server.pipeline(name, spec))

    def show(self, run_id: str) -> dict[str, Any]:
        """The run as the server shows it; an empty one while the server is away."""
        try:
            answer = self.server.call("GET", f"/workflow-runs/{run_id}")
        except httpx.TransportError:
            return {"status": "away", "jobs": []}
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, run_id: str, timeout: float = 120.0) -> dict[str, Any]:
        """The run, once it is over."""
        over = ("succeeded", "failed", "cancelled", "timed_out")
        shown: dict[str, Any] = {}

        def look() -> bool:
            shown.update(self.show(run_id))
            return shown["status"] in over

        try:
            until(look, timeout, "the run ends")
        except AssertionError as error:
            raise AssertionError(f"{error}; it stands so: {shown}") from None
        return shown

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """All attempts of all steps of a run."""
        return [a for job in self.show(run_id)["jobs"] for step in job["steps"] for a in step["attempts"]]

    def running(self, run_id: str, count: int = 1, timeout: float = 60.0) -> list[dict[str, Any]]:
        """The running attempts of a run, once there are so many."""

        def look() -> list[dict[str, Any]]:
            found = [a for a in self.attempts(run_id) if a["status"] == "running"]
            return found if len(found) >= count else []

        return until(look, timeout, f"{count} attempts run")

    def busy(self, agent: AgentProcess) -> int:
        """How many tasks the server thinks it holds."""
        return int(self.server.ask("GET", f"/agents/{agent.name}")["capacity"]["busy"])

    def status(self, agent: AgentProcess) -> str:
        """Online, offline or draining."""
        return str(self.server.ask("GET", f"/agents/{agent.name}")["status"])

    def logs(self, run_id: str, **narrowed: str) -> list[str]:
        """The lines of ``/logs``."""
        return self.server.call("GET", f"/workflow-runs/{run_id}/logs", params=narrowed).text.splitlines()


@contextlib.contextmanager
def fleet(directory: Path, **settings: Any) -> Iterator[Fleet]:
    """A started server, without agents yet; all that was started is surely gone afterwards."""
    made = Fleet(directory, Server(directory, **settings))
    try:
        made.server.start()
        yield made
    finally:
        made.close()


def on(agent: str, *jobs: dict[str, Any]) -> dict[str, Any]:
    """A spec whose steps all go to one agent."""
    for job in jobs:
        for step in job["steps"]:
            step["agentSelector"] = {"matchLabels": {"only": agent}}
    return {"jobs": list(jobs)}


def shell(name: str, script: str, **more: Any) -> dict[str, Any]:
    """A step that runs a script."""
    return {"name": name, "uses": "shell", "args": {"script": script}, **more}


def dummy(name: str, **args: Any) -> dict[str, Any]:
    """A step of the agent's dummy executor."""
    return {"name": name, "uses": "dummy", "args": args}
