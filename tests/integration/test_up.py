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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pilothouse.agent.lock import lock_holder
from support.databases import server_database
from support.http_proxy import dead_address
from support.waiting import PATIENCE, slowness

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

    def __init__(self, home: Path, config: Path | None = None, data: str = "data") -> None:
        """``data``: the data directory, relative to ``home``; named unless it is ``.pilothouse``."""
        self.home, self.data = home, home / data
        self.config = config or home / "config"
        self.ports = [_free_port(), _free_port()]
        self.context = "local"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        self.environment |= {"PILOT_CONFIG_HOME": str(self.config), "PILOT_RATELIMIT_DEFAULT": "off"}
        if url := server_database():
            self.environment["PILOT_DATABASE_URL"] = url
        self.server: subprocess.Popen[str] | None = None

    def up(self, *more: str, where: Path | None = None, host: str = "127.0.0.1") -> None:
        """Start ``pilot up`` and wait until it is ready."""
        port, grpc_port = map(str, self.ports)
        before = len(self.said)
        words = ["up", "--port", port, "--grpc-port", grpc_port, *more]
        if self.data.name != ".pilothouse":
            words += ["--data-dir", str(self.data)]
        with (self.home / "up.log").open("a") as log:
            self.server = subprocess.Popen(
                (sys.executable, "-m", "pilothouse", *words),
                cwd=where or self.home,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.server.stdout is not None
        ready = self.server.stdout.readline()
        assert re.fullmatch(
            rf"pilothouse ready http=http://{host}:{port} grpc={host}:{grpc_port}\n", ready
        ), self.said
        until(lambda: "Logged in as admin" in self.said[before:], self)

    def down(self, number: int = signal.SIGTERM) -> float:
        """End it; returns the seconds that took."""
        assert self.server is not None
        began = time.monotonic()
        self.server.send_signal(number)
        assert self.server.wait(PATIENCE) == 0
        return time.monotonic() - began

    @property
    def said(self) -> str:
        """Combined stderr."""
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
            timeout=PATIENCE,
            check=False,
        )

    def get(self, path: str) -> Any:
        """Ask the server, with the token that ``pilot up`` has saved."""
        saved = self.contexts[self.context]
        headers = {"Authorization": f"Bearer {saved['token']}"}
        return (
            httpx.get(f"{saved['server']}/api/v1{path}", headers=headers, timeout=PATIENCE, trust_env=False)
            .raise_for_status()
            .json()
        )

    def put_secret(self, value: str) -> httpx.Response:
        """Write something, with the token that ``pilot up`` has saved."""
        saved = self.contexts[self.context]
        headers = {"Authorization": f"Bearer {saved['token']}"}
        return httpx.put(
            f"{saved['server']}/api/v1/secrets/FILL", json={"value": value}, headers=headers, timeout=PATIENCE
        )

    @property
    def contexts(self) -> Any:
        """Saved logins by name."""
        return tomllib.loads((self.config / "contexts.toml").read_text())["contexts"]

    @property
    def current(self) -> str:
        """The name of the login in use."""
        return str(tomllib.loads((self.config / "contexts.toml").read_text())["current"])

    def agent_pid(self) -> int | None:
        """The process that holds the agent's lock."""
        holder = lock_holder(self.data / "agent")
        return holder.pid if holder else None

    def agent_is_online(self) -> bool:
        return any(agent["status"] == "online" for agent in self.get("/agents")["agents"])


def until(condition: Callable[[], Any], machine: Machine, seconds: float = PATIENCE) -> Any:
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
    cleared(machine)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Several directories of one user."""
    made: list[Machine] = []

    def make(name: str, data: str = ".pilothouse") -> Machine:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        made.append(Machine(home, tmp_path / "config", data))
        return made[-1]

    yield make
    for machine in made:
        cleared(machine)


def cleared(machine: Machine) -> None:
    """Nothing of it runs any more."""
    if machine.server is not None and machine.server.poll() is None:
        machine.server.kill()
        machine.server.wait()
    if pid := machine.agent_pid():
        os.kill(pid, signal.SIGKILL)
    if machine.server is not None and machine.server.stdout is not None:
        machine.server.stdout.close()


def test_an_idle_agent_is_replaced_when_it_dies_and_ends_with_the_server(machine: Machine) -> None:
    machine.up()
    until(machine.agent_is_online, machine)
    agent = machine.get("/agents/local")
    assert (agent["platform"], agent["labels"]["local"]) == ("process", "true")
    assert agent["capacity"]["slots"] >= 4
    first = machine.agent_pid()
    assert first is not None
    words = Path(f"/proc/{first}/cmdline").read_text()
    assert "pilotreg_" not in words, "a token is in no argument"
    assert (machine.home / "data" / ".gitignore").read_text() == "*\n"
    os.kill(first, signal.SIGKILL)
    until(lambda: machine.agent_pid() not in (None, first), machine)
    assert "restarting it" in machine.said
    assert machine.down() < 10 * slowness()
    assert machine.agent_pid() is None


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
    """Clients get an error, and once there is space all work continues, including the agent's."""
    if "PILOT_DATABASE_URL" in machine.environment:
        pytest.skip("the disk of PostgreSQL is not ours to fill")
    machine.up()
    until(machine.agent_pid, machine)
    until(machine.agent_is_online, machine)
    first = machine.agent_pid()
    assert first is not None
    address = f"http://127.0.0.1:{machine.ports[0]}"
    until(lambda: httpx.get(f"{address}/readyz").status_code == 200, machine)
    with (small_disk / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
        while True:
            fill.write(bytes(1 << 16))
    # What the database's log still holds of old pages is used up before it takes nothing more.
    until(lambda: machine.put_secret("x" * 60_000).status_code == 503, machine)
    # A small write may still succeed, so one answer has both.
    until(lambda: "full" in httpx.get(f"{address}/readyz").json().get("reason", ""), machine)
    os.kill(first, signal.SIGKILL)
    # It has a token of its own: starting again takes no write of the server's.
    until(
        lambda: machine.agent_pid() not in (None, first) or "cannot be started" in machine.said, machine, 60
    )
    (small_disk / "fill").unlink()
    until(lambda: machine.put_secret("short").status_code == 200, machine)
    until(lambda: httpx.get(f"{address}/readyz").status_code == 200, machine)
    until(lambda: machine.agent_pid() not in (None, first), machine)
    (machine.home / ".pilot.yaml").write_text(SLOW % "/")
    until(lambda: machine.pilot("pipeline", "run", "--no-checkout").returncode == 0, machine)
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
    assert machine.down(signal.SIGINT) < 10 * slowness()
    assert "and keeps running" in machine.said
    assert machine.agent_pid() == worker
    done.touch()  # it finishes while no server is there
    machine.up()
    watched = machine.pilot("run", "watch", run)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "build/slow | done" in watched.stdout
    assert machine.agent_pid() == worker
    assert f"process {worker}) is already running" in machine.said
    assert (machine.home / "config" / "contexts.toml").read_text() == token, "open streams keep their token"
    machine.down()
    assert machine.agent_pid() is None


# -- what a step can find out ------------------------------------------------------------------------------

LOOK = """
jobs:
  - name: look
    steps:
      - name: around
        uses: shell
        args:
          script: |
            at=$$
            while [ "$at" -gt 1 ]; do
              cat /proc/$at/environ /proc/$at/cmdline | tr '\\0' '\\n' >> found
              if tr '\\0' ' ' < /proc/$at/cmdline | grep -q "pilothouse agent "; then echo "the agent is $at"; break; fi
              at=$(awk '/^PPid:/ {print $2}' /proc/$at/status)
            done
            # Nobody but this script knows these words.
            if grep -a -n "pilotreg[_]" found; then exit 1; fi
            if grep -a -n "%s" found; then exit 1; fi
"""


def test_a_step_finds_no_registration_token(machine: Machine) -> None:
    """Neither in the first life of the agent, which registers, nor in the next, which does not."""
    needle = "agent-tokens-" + os.urandom(4).hex()
    (machine.home / ".pilot.yaml").write_text(LOOK % f"{needle[:-1]}[{needle[-1]}]")
    machine.environment["PILOT_AGENT_TOKEN"] = needle
    machine.up()
    first = until(machine.agent_pid, machine)
    until(machine.agent_is_online, machine)
    tokens = machine.get("/registration-tokens")["registration_tokens"]
    assert [(t["revoked"], t["uses"], t["max_uses"], t["agents"]) for t in tokens] == [
        (True, 1, 1, ["local"])
    ]
    del machine.environment["PILOT_AGENT_TOKEN"]
    words = Path(f"/proc/{first}/environ").read_bytes() + Path(f"/proc/{first}/cmdline").read_bytes()
    assert needle.encode() not in words
    done = machine.pilot("pipeline", "run", "--no-checkout")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the agent is {first}" in done.stdout
    os.kill(first, signal.SIGKILL)
    until(lambda: machine.agent_pid() not in (None, first), machine)
    assert machine.get("/registration-tokens")["registration_tokens"] == tokens, "it has a token of its own"
    machine.down()


def test_an_agent_that_the_server_does_not_know_registers_anew(machine: Machine) -> None:
    """For example a database other than the one it registered with."""
    machine.up()
    until(machine.agent_is_online, machine)
    machine.down()
    credential = machine.data / "agent" / "credential"
    credential.write_text('{"agent_id": "local", "token": "pilotagent_unknown"}')
    machine.up()
    until(lambda: "pilotagent_unknown" not in credential.read_text(), machine)
    until(machine.agent_is_online, machine)
    assert all(t["revoked"] for t in machine.get("/registration-tokens")["registration_tokens"])
    machine.down()


# -- proxies ----------------------------------------------------------------------------------------------


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def test_a_proxy_keeps_nobody_from_this_machine(machine: Machine) -> None:
    machine.environment |= dict.fromkeys(PROXIES, dead_address())
    (machine.home / ".pilot.yaml").write_text(SLOW % "/")
    machine.up()
    done = machine.pilot("pipeline", "run", "--no-checkout")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.down()


def test_a_proxy_is_bypassed_for_other_addresses_of_this_machine(machine: Machine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no other address")
        address = str(probe.getsockname()[0])
    machine.environment |= dict.fromkeys(map(str.upper, PROXIES), dead_address())
    machine.up("--host", address, host=address)
    until(machine.agent_is_online, machine)
    machine.down()


# -- several of one user ----------------------------------------------------------------------------------

Machines = Callable[..., Machine]


def test_a_second_one_leaves_the_first_ones_login_alone(machines: Machines) -> None:
    first, second = machines("first"), machines("second")
    first.up()
    before = first.contexts["local"]
    assert (before["data_dir"], first.current) == (str(first.data), "local")
    second.up()
    assert first.contexts["local"] == before
    assert second.contexts["local-second"]["data_dir"] == str(second.data)
    assert second.current == "local", "commands in the first one's shells go where they went"
    assert f"Another `pilot up` is running on {first.data} (context 'local')" in second.said
    assert "pilot config use local-second" in second.said
    assert first.pilot("whoami", "-o", "json").stdout.count(before["server"]) == 1
    second.down()
    second.up()
    assert set(second.contexts) == {"local", "local-second"}, "it has its name already"
    second.down()
    first.down()


def test_two_at_the_same_time_take_two_names(machines: Machines) -> None:
    both = [machines("one"), machines("two")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Machine.up, both))
    saved = both[0].contexts
    assert len(saved) == 2
    assert {each["data_dir"] for each in saved.values()} == {str(machine.data) for machine in both}
    assert len({each["token"] for each in saved.values()}) == 2
    for machine in both:
        machine.down()


def test_the_context_name_of_a_stopped_server_is_reused_with_a_message(machines: Machines) -> None:
    first, second = machines("first"), machines("second")
    first.up()
    first.down()
    second.up()
    assert second.contexts["local"]["data_dir"] == str(second.data)
    assert f"replaces that of {first.data}, which is not running" in second.said
    assert set(second.contexts) == {"local"}
    second.down()


def test_a_login_elsewhere_is_never_taken_over(machines: Machines) -> None:
    machine = machines("mine")
    machine.config.mkdir()
    (machine.config / "contexts.toml").write_text(
        'current = "local"\n[contexts.local]\nserver = "https://pilot.example"\ntoken = "theirs"\n'
    )
    machine.up()
    assert machine.contexts["local"] == {"server": "https://pilot.example", "token": "theirs"}
    assert machine.current == "local-mine"
    machine.down()


def test_one_data_directory_for_a_whole_work_tree(machines: Machines) -> None:
    machine = machines("repository")
    subprocess.run(["git", "init", "--quiet", str(machine.home)], check=True)
    deep = machine.home / "a" / "b"
    deep.mkdir(parents=True)
    machine.up()
    assert (machine.data / ".gitignore").read_text() == "*\n"
    status = ["git", "-C", str(machine.home), "status", "--porcelain", "--untracked-files=all"]
    assert ".pilothouse" not in subprocess.run(status, check=True, capture_output=True, text=True).stdout
    machine.down()
    machine.up(where=deep)
    assert f"Data directory: {machine.data} (the one of this git work tree)" in machine.said
    assert not (deep / ".pilothouse").exists()
    machine.down()
    (machine.home / "inner").mkdir()
    subprocess.run(["git", "init", "--quiet", str(machine.home / "inner")], check=True)
    machine.up(where=machine.home / "inner")
    assert (machine.home / "inner" / ".pilothouse" / "server.key").exists(), "another work tree, another one"
    machine.data = machine.home / "inner" / ".pilothouse"
    machine.down()
