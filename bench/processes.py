"""What processes cost: CPU from their start until they are ready, memory of idle ones, CPU of short commands.

Real ``pilot`` processes with compiled modules. CPU is the least of several starts, since other load can only add.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bench.common import HERE, Lab, Options, Row, cpu_seconds, missed, rss

START = 1.0
HELP = 0.20
LIST = 0.40
"""Targets in seconds of CPU."""
SERVER = 110
AGENT = 60
"""Targets in MiB of resident memory."""
IDLE = 5.0
"""Seconds after which memory is read."""
PASSWORD = "bench-processes"
RUNS = 20
"""Runs that ``pilot run list`` shows."""


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Measure a server, then an agent and commands with it."""
    times = 3 if options.quick else 9
    home = lab.directory / "processes"
    home.mkdir()
    pilot = _Pilot(home)
    with pilot.server() as first:
        yield Row("CPU of a server's first start, with its migrations", f"{first.cpu:.2f} s")
    costs = []
    for _ in range(times):
        with pilot.server() as server:
            costs.append(server.cpu)
    yield _seconds("CPU of a server's start", min(costs), START)
    with pilot.server() as server:
        time.sleep(IDLE)
        yield _memory("memory of an idle server", server.pid, SERVER)
        pilot.log_in(server)
        with pilot.agent(server) as agent:
            time.sleep(IDLE)
            yield _memory("memory of an idle agent", agent.pid, AGENT)
        yield _seconds("CPU of pilot --help", pilot.command(times, "--help"), HELP)
        yield _seconds(
            f"CPU of pilot run list, {RUNS} runs", pilot.command(times, "run", "list", "--all"), LIST
        )


def _seconds(name: str, cost: float, bar: float) -> Row:
    return Row(
        name, f"{cost:.2f} s", bar=f"≤ {bar:.2f} s", met=cost <= bar, why=missed(cost, bar, least=False)
    )


def _memory(name: str, pid: int, bar: int) -> Row:
    used = rss(pid) / 2**20
    return Row(
        name, f"{used:.0f} MiB", bar=f"≤ {bar} MiB", met=used <= bar, why=missed(used, bar, least=False)
    )


class _Process:
    """A started ``pilot``. ``cpu``: what it and the children that have ended used until it said that it was ready."""

    def __init__(self, started: subprocess.Popen[str], ready: str) -> None:
        output = started.stdout
        assert output is not None
        self.pid = started.pid
        self.line = next((line for line in output if ready in line), "")
        if not self.line:
            raise RuntimeError(f"pilot ended with {started.wait()} before it was ready")
        self.cpu = cpu_seconds(self.pid) + _of_children(self.pid)


def _of_children(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


class _Pilot:
    """The command in one directory, with one server's data."""

    def __init__(self, home: Path) -> None:
        self._home = home
        given = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        given.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
        self._environment = given | {"PILOT_CONFIG_HOME": str(home), "PYTHONPATH": str(HERE.parent / "src")}

    @contextlib.contextmanager
    def server(self) -> Iterator[_Process]:
        """A server that is ready."""
        arguments = ("server", "--port", "0", "--grpc-port", "0", "--data-dir", "data")
        with self._running(arguments, "pilothouse ready", PILOT_ADMIN_PASSWORD=PASSWORD) as server:
            yield server

    @contextlib.contextmanager
    def agent(self, server: _Process) -> Iterator[_Process]:
        """An agent that is connected."""
        http, grpc = _addresses(server)
        made = _post(
            f"{http}/api/v1/registration-tokens", {"description": "bench"}, self._environment["PILOT_TOKEN"]
        )
        (self._home / "registration").write_text(str(made["token"]))
        arguments = (
            "agent",
            "--server",
            http,
            "--grpc",
            grpc,
            "--token-file",
            "registration",
            "--data-dir",
            "agent",
        )
        with self._running(arguments, "agent.connected", PILOT_TOKEN="") as agent:
            yield agent

    def log_in(self, server: _Process) -> None:
        """Use this server for commands, and start the runs that they list."""
        http, _ = _addresses(server)
        login = _post(f"{http}/api/v1/auth/login", {"username": "admin", "password": PASSWORD})
        token = str(login["token"])
        self._environment |= {"PILOT_SERVER": http, "PILOT_TOKEN": token}
        made = _post(f"{http}/api/v1/pipelines", {"name": "listed"}, token)
        spec = {"jobs": [{"name": "job", "steps": [{"name": "step", "run": "true"}]}]}
        for _ in range(RUNS):
            path = f"/api/v1/pipelines/{made['detail']['pipelineId']}/trigger"
            _post(http + path, {"spec": json.dumps(spec)}, token)

    def command(self, times: int, *arguments: str) -> float:
        """The least CPU of a command, in seconds."""
        return min(self._cost(arguments) for _ in range(times))

    def _cost(self, arguments: tuple[str, ...]) -> float:
        ran = subprocess.Popen(
            self._line(arguments), cwd=self._home, env=self._environment, stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(ran.pid, 0)
        ran.returncode = os.waitstatus_to_exitcode(status)
        if ran.returncode:
            raise RuntimeError(f"pilot {' '.join(arguments)} ended with {ran.returncode}")
        return used.ru_utime + used.ru_stime

    @contextlib.contextmanager
    def _running(self, arguments: tuple[str, ...], ready: str, **more: str) -> Iterator[_Process]:
        environment = {name: value for name, value in (self._environment | more).items() if value}
        with subprocess.Popen(
            self._line(arguments),
            cwd=self._home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as started:
            try:
                yield _Process(started, ready)
            finally:
                started.terminate()

    def _line(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "pilothouse", *arguments]


def _addresses(server: _Process) -> tuple[str, str]:
    words = dict(word.split("=", 1) for word in server.line.split() if "=" in word)
    return words["http"], words["grpc"]


def _post(url: str, body: object, token: str = "") -> dict[str, dict[str, str]]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        found: dict[str, dict[str, str]] = json.load(answer)
        return found
