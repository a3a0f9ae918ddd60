"""``pilot up`` as a process: logged in, an agent at work, and who ends when."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pilothouse.agent.lock import lock_holder
from support.databases import server_database

SLOW = """
jobs:
  - name: build
    steps:
      - name: slow
        uses: shell
        args: {command: "until [ -e %s ]; do sleep 0.05; done; echo done"}
"""


class Machine:
    """A directory, free ports, and the commands that are run there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = [_free_port(), _free_port()]
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        self.environment |= {"PILOT_CONFIG_HOME": str(home / "config"), "PILOT_RATELIMIT_DEFAULT": "off"}
        if url := server_database():
            self.environment["PILOT_DATABASE_URL"] = url
        self.server: subprocess.Popen[str] | None = None

    def up(self) -> None:
        """Start ``pilot up`` and wait until it is ready."""
        port, grpc_port = map(str, self.ports)
        before = len(self.said)
        words = ("up", "--port", port, "--grpc-port", grpc_port, "--data-dir", "data")
        with (self.home / "up.log").open("a") as log:
            self.server = subprocess.Popen(
                (sys.executable, "-m", "pilothouse", *words),
                cwd=self.home,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.server.stdout is not None
        ready = self.server.stdout.readline()
        assert re.fullmatch(
            rf"pilothouse ready http=http://127.0.0.1:{port} grpc=127.0.0.1:{grpc_port}\n", ready
        ), self.said
        until(lambda: "is logged in as admin" in self.said[before:], self)

    def down(self, number: int = signal.SIGTERM) -> float:
        """End it; returns the seconds that took."""
        assert self.server is not None
        began = time.monotonic()
        self.server.send_signal(number)
        assert self.server.wait(15) == 0
        return time.monotonic() - began

    @property
    def said(self) -> str:
        """What all of them said on stderr."""
        log = self.home / "up.log"
        return log.read_text() if log.exists() else ""

    def pilot(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "pilothouse", *arguments)
        return subprocess.run(
            command,
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def get(self, path: str) -> Any:
        """Ask the server, with the token that ``pilot up`` has saved."""
        saved = tomllib.loads((self.home / "config" / "contexts.toml").read_text())["contexts"]["local"]
        headers = {"Authorization": f"Bearer {saved['token']}"}
        return (
            httpx.get(f"{saved['server']}/api/v1{path}", headers=headers, timeout=10)
            .raise_for_status()
            .json()
        )

    def put_secret(self, value: str) -> httpx.Response:
        """Write something, with the token that ``pilot up`` has saved."""
        saved = tomllib.loads((self.home / "config" / "contexts.toml").read_text())["contexts"]["local"]
        headers = {"Authorization": f"Bearer {saved['token']}"}
        return httpx.put(
            f"{saved['server']}/api/v1/secrets/FILL", json={"value": value}, headers=headers, timeout=10
        )

    def agent_pid(self) -> int | None:
        """The process that holds the agent's lock."""
        holder = lock_holder(self.home / "data" / "agent")
        return holder.pid if holder else None

    def agent_is_online(self) -> bool:
        return any(agent["status"] == "online" for agent in self.get("/agents")["agents"])


def until(condition: Callable[[], Any], machine: Machine, seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, machine.said
        time.sleep(0.05)
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    if machine.server is not None and machine.server.poll() is None:
        machine.server.kill()
        machine.server.wait()
    if pid := machine.agent_pid():
        os.kill(pid, signal.SIGKILL)
    if machine.server is not None and machine.server.stdout is not None:
        machine.server.stdout.close()


def test_an_idle_agent_ends_with_the_server(machine: Machine) -> None:
    machine.up()
    until(machine.agent_is_online, machine)
    agent = machine.get("/agents/local")
    assert (agent["platform"], agent["labels"]["local"]) == ("process", "true")
    assert agent["capacity"]["slots"] >= 4
    words = Path(f"/proc/{machine.agent_pid()}/cmdline").read_text()
    assert "pilotreg_" not in words, "a token is in no argument"
    assert (machine.home / "data" / ".gitignore").read_text() == "*\n"
    assert machine.down() < 10
    assert machine.agent_pid() is None


def test_an_agent_that_dies_is_replaced(machine: Machine) -> None:
    machine.up()
    first = until(machine.agent_pid, machine)
    os.kill(first, signal.SIGKILL)
    until(lambda: machine.agent_pid() not in (None, first), machine)
    assert "starting it again" in machine.said
    machine.down()


@pytest.fixture
def small_disk(machine: Machine) -> Iterator[Path]:
    """The data directory on a disk of 24 MiB."""
    path = machine.home / "data"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    if machine.server is not None and machine.server.poll() is None:
        machine.down()
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_ends_nothing_for_good(machine: Machine, small_disk: Path) -> None:
    """Whoever asks hears of it, and once there is room again all goes on, the agent too."""
    if "PILOT_DATABASE_URL" in machine.environment:
        pytest.skip("the disk of PostgreSQL is not ours to fill")
    machine.up()
    until(machine.agent_pid, machine)
    until(machine.agent_is_online, machine)
    first = machine.agent_pid()
    assert first is not None
    address = f"http://127.0.0.1:{machine.ports[0]}"
    until(lambda: httpx.get(f"{address}/readyz").status_code == 200, machine)
    with (small_disk / "fill").open("wb") as fill, contextlib.suppress(OSError):
        while True:
            fill.write(bytes(1 << 16))
            fill.flush()
    # What the database's log still holds of old pages is used up before it takes nothing more.
    until(lambda: machine.put_secret("x" * 60_000).status_code == 503, machine, 60)
    until(lambda: httpx.get(f"{address}/readyz").status_code == 503, machine)
    assert "full" in httpx.get(f"{address}/readyz").json()["reason"]
    os.kill(first, signal.SIGKILL)
    # It has a token of its own: starting again takes no write of the server's.
    until(
        lambda: machine.agent_pid() not in (None, first) or "cannot be started" in machine.said, machine, 60
    )
    (small_disk / "fill").unlink()
    until(lambda: machine.put_secret("short").status_code == 200, machine)
    until(lambda: httpx.get(f"{address}/readyz").status_code == 200, machine)
    until(lambda: machine.agent_pid() not in (None, first), machine, 60)
    (machine.home / ".pilot.yaml").write_text(SLOW % "/")
    until(lambda: machine.pilot("pipeline", "run", "--no-checkout").returncode == 0, machine, 60)
    assert "Traceback" not in machine.said
    machine.down()


def test_a_working_agent_is_left_and_found_again(machine: Machine) -> None:
    done = machine.home / "done"
    (machine.home / ".pilot.yaml").write_text(SLOW % done)
    machine.up()
    token = (machine.home / "config" / "contexts.toml").read_text()
    run = machine.pilot("pipeline", "run", "--no-checkout", "--detach").stdout.strip()
    until(lambda: any(agent["capacity"]["busy"] for agent in machine.get("/agents")["agents"]), machine)
    until(lambda: machine.get(f"/workflow-runs/{run}")["jobs"][0]["steps"][0]["status"] == "running", machine)
    worker = machine.agent_pid()
    assert machine.down(signal.SIGINT) < 10
    assert "still runs 1 step and works on" in machine.said
    assert machine.agent_pid() == worker
    done.touch()  # it finishes while no server is there
    machine.up()
    watched = machine.pilot("run", "watch", run)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "build/slow | done" in watched.stdout
    assert machine.agent_pid() == worker
    assert f"process {worker}) is here already" in machine.said
    assert (machine.home / "config" / "contexts.toml").read_text() == token, "open streams keep their token"
    machine.down()
    assert machine.agent_pid() is None
