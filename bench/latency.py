"""Latency from a printed line to a viewer's socket: print → agent → commit with fsync → WebSocket.

Writer and viewer use the same monotonic clock. Measured with a step of a real agent that prints, and with lines
pushed over gRPC without the agent.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import CLIENT_CORE, Child, Lab, Options, Row, Server
from bench.loglines import SPEC

EVERY = 0.02
_PRINTED = re.compile(rb"printed=(\d+)\.")
_PRINTER = (
    "import time; [(print(f'printed={time.monotonic_ns()}.', flush=True), time.sleep(%s)) for _ in range(%d)]"
)


class Viewer:
    """One WebSocket on a run, read by a thread that records the delay of each line."""

    def __init__(self, server: Server, run: str) -> None:
        self.delays: list[float] = []
        self._rest = b""
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall("\r\n".join([*server.stream(run, "ws"), "", ""]).encode())
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, count: int, seconds: float) -> list[float]:
        """Sorted delays of this many lines, in seconds."""
        end = time.monotonic() + seconds
        while len(self.delays) < count:
            if time.monotonic() > end:
                raise RuntimeError(f"only {len(self.delays)} of {count} lines reached the viewer")
            time.sleep(0.05)
        self._socket.close()
        return sorted(self.delays[:count])

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(1 << 16):
                now = time.monotonic_ns()
                self._rest += data
                end = 0
                for found in _PRINTED.finditer(self._rest):
                    self.delays.append((now - int(found[1])) / 1e9)
                    end = found.end()
                self._rest = self._rest[end:][-4096:]


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Fifty lines per second."""
    count = 100 if options.quick else 500
    yield _row("a line printed by a step of our agent, to the viewer", _through_our_agent(lab, count))
    if not options.quick:
        yield _row("a line pushed over gRPC, to the viewer", _pushed(lab, count))


def _row(name: str, delays: list[float]) -> Row:
    middle, late = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    return Row(name, f"p50 {middle * 1e3:.1f} ms, p99 {late * 1e3:.1f} ms")


def _pushed(lab: Lab, count: int) -> list[float]:
    with lab.server() as server:
        registration = server.ask("registration")["token"]
        given = {"grpc": server.grpc, "registration": registration, "slots": 4, "noop": False}
        with contextlib.closing(Child("bench.agent", CLIENT_CORE, given)) as agent:
            run = server.ask("run", spec=SPEC)["run"]
            step = agent.ask("task")["step_run"]
            viewer = Viewer(server, run)
            agent.ask("print_times", step_run=step, count=count, every=EVERY)
            return viewer.wait(count, 10)


def _through_our_agent(lab: Lab, count: int) -> list[float]:
    with lab.server() as server, _our_agent(lab.directory / f"agent-{time.monotonic_ns()}", server):
        program = _PRINTER % (EVERY, count)
        command = f'{sys.executable} -c "{program}"'
        spec = SPEC.replace(
            'args: {command: "true"}', "args: {command: '" + command.replace("'", "''") + "'}"
        )
        viewer = Viewer(server, server.ask("run", spec=spec)["run"])
        return viewer.wait(count, 30 + 2 * count * EVERY)


@contextlib.contextmanager
def _our_agent(directory: Path, server: Server) -> Iterator[None]:
    token = server.ask("registration")["token"]
    directory.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
    command = [sys.executable, "-m", "pilothouse", "agent", "--server", f"http://127.0.0.1:{server.port}"]
    command += [
        "--grpc",
        server.grpc,
        "--name",
        "bench",
        "--label",
        "only=bench",
        "--data-dir",
        str(directory),
    ]
    with (directory / "log").open("wb") as log:
        agent = subprocess.Popen(
            command,
            env={**environment, "PILOT_AGENT_TOKEN": token},
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        )
    try:
        yield
    finally:
        agent.terminate()
        agent.wait(15)
