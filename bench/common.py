"""Common parts of benchmarks: rows, child processes pinned to cores, CPU time, and the load client.

The server and the references run on the first core, the load client on the last. CPU time is measured, since the
machine may have other load; rounds of both alternate, and the median round is reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
READER_BUSY = 0.7
"""Maximum share of a core for the load client; above, it may be the bottleneck."""

C = TypeVar("C", bound="Child")


@dataclass(frozen=True, slots=True)
class Options:
    """Options. ``quick``: smoke test with few rounds and small sizes."""

    quick: bool = False

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Transports to measure and their display names."""
        both = [("ws", "WebSocket"), ("sse", "SSE")]
        return both[:1] if self.quick else both

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return 2 if self.quick else 7


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. ``met`` is ``None`` without a target; ``why`` explains a miss or missing value."""

    name: str
    ours: str
    peer: str = "-"
    ratio: str = "-"
    bar: str = "-"
    met: bool | None = None
    why: str = ""

    @property
    def verdict(self) -> str:
        """Result as one word."""
        return "info" if self.met is None else "met" if self.met else "MISSED"


class Child:
    """A child process pinned to a core, with JSON lines on stdin and stdout."""

    def __init__(self, module: str, core: int, argument: Any = None, log: Path | None = None) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        self._log = log
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(log.open("ab")) if log else None
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(argument)],
                cwd=HERE.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self.hello = self._answer()

    def ask(self, do: str, **more: Any) -> Any:
        """Send one command and return its response."""
        self.send(do, **more)
        return self._answer()

    def send(self, do: str, **more: Any) -> None:
        """Send one command; :meth:`answer` returns its response."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The response to the last sent command."""
        return self._answer()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def cpu(self) -> float:
        """CPU seconds used by all threads of the process."""
        return cpu_seconds(self.pid)

    @property
    def rss(self) -> int:
        """Resident bytes."""
        return rss(self.pid)

    def close(self) -> None:
        """Close stdin, which ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "failed" in answer:
                    raise RuntimeError(answer["failed"])
                return answer
        tail = self._log.read_text()[-2000:] if self._log else ""
        raise RuntimeError(f"the process ended with {self._process.wait()}: {tail}")


class Server(Child):
    """The server under test, with commands (see ``bench/server.py``)."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        settings = {"data_dir": str(directory / "data"), **settings}
        super().__init__("bench.server", SERVER_CORE, settings, directory / "server.log")
        self.port: int = self.hello["port"]
        self.grpc: str = self.hello["grpc"]
        self.token: str = self.hello["token"]

    def stream(self, run: str, kind: str) -> list[str]:
        """The HTTP request that opens a run's stream, as ``ws`` or ``sse``."""
        return stream_request(f"/api/v1/workflow-runs/{run}/stream", kind, self.token)


def stream_request(path: str, kind: str, token: str = "") -> list[str]:
    """The lines of an HTTP request for a WebSocket or an event stream."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if kind == "sse":
        return [*lines, "Accept: text/event-stream"]
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return [*lines, "Connection: Upgrade", "Upgrade: websocket", key, "Sec-WebSocket-Version: 13"]


@dataclass(frozen=True, slots=True)
class Seen:
    """Statistics of the load client: bytes of all connections, minimum and maximum per connection."""

    total: int
    least: int
    most: int
    cpu: float
    closed: int


class Reader:
    """Many open streams, read by one C process on the last core."""

    def __init__(self, lab: Lab, port: int, count: int, request: list[str], then: bytes = b"") -> None:
        """Open the streams; ``then`` is sent on each once it is open."""
        sources = 1 + count // 10_000
        self.count = count
        self._process = subprocess.Popen(
            [lab.reader, "127.0.0.1", str(port), str(count), str(sources), then.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        )
        self._write("\n".join([*request, "", "."]))
        opened = self._line()
        if opened != f"open {count}":
            raise RuntimeError(f"the load client could not open {count} streams: {opened!r}")

    def stats(self) -> Seen:
        """Current statistics."""
        return self._ask("stats")

    def quiet(self) -> Seen:
        """Wait until data has arrived since the last ``quiet``, followed by 40 ms without data."""
        return self._ask("quiet")

    def reach(self, total: int) -> Seen:
        """Wait until this many bytes have arrived on all connections in total."""
        return self._ask(f"await {total}")

    def close(self) -> None:
        """Close all streams."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, command: str) -> Seen:
        self._write(command)
        total, least, most, cpu, closed = map(int, self._line().split())
        return Seen(total, least, most, cpu / 1e9, closed)

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Lab:
    """A temporary directory with the compiled load client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reader = str(directory / "reader")
        source = str(HERE / "reader.c")
        subprocess.run(["cc", "-O2", "-o", self.reader, source], check=True)
        self._made = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Lab]:
        """Create the directory for one run."""
        with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as name:
            yield cls(Path(name))

    @contextlib.contextmanager
    def server(self, **settings: Any) -> Iterator[Server]:
        """Start a new server."""
        self._made += 1
        with contextlib.closing(Server(self.directory / f"server-{self._made}", **settings)) as server:
            yield server

    def bare(self) -> contextlib.closing[Child]:
        """Start the reference of fan-out (see ``bench/bare.py``)."""
        self._made += 1
        directory = self.directory / f"bare-{self._made}"
        directory.mkdir()
        return contextlib.closing(Child("bench.bare", SERVER_CORE, str(directory)))

    def open_streams(self, port: int, count: int, request: list[str]) -> contextlib.closing[Reader]:
        """Open streams on a local server."""
        return contextlib.closing(Reader(self, port, count, request))


@dataclass(frozen=True, slots=True)
class Spent:
    """One round: seconds of CPU of the serving process, bytes received, and how busy the load client was."""

    cpu: float
    received: int
    even: bool
    reader_busy: float


def spend(child: Child, reader: Reader, work: Callable[[], Any]) -> tuple[Spent, Any]:
    """Run a command, wait until the load client has received everything, and measure the cost."""
    before, began, cpu = reader.stats(), time.monotonic(), child.cpu
    answer = work()
    after = reader.quiet()
    wall = time.monotonic() - began
    spent = Spent(
        cpu=child.cpu - cpu,
        received=after.total - before.total,
        even=after.most - after.least == before.most - before.least,
        reader_busy=(after.cpu - before.cpu) / wall,
    )
    if after.closed:
        raise RuntimeError(f"{after.closed} of {reader.count} streams were closed by the server")
    return spent, answer


def missed(value: float, bar: float, *, least: bool, why: str = "") -> str:
    """By how much a target is missed, and why; empty if it is met. ``least``: the target is a minimum."""
    if (value >= bar) if least else (value <= bar):
        return ""
    by = f"{1 - value / bar:.0%} short" if least else f"{value / bar - 1:.0%} over"
    return f"{by}: {why}" if why else by


def cpu_seconds(pid: int) -> float:
    """CPU clock of another process (on Linux the clock id is derived from the pid)."""
    return time.clock_gettime((~pid << 3) | 2)


def rss(pid: int) -> int:
    """Resident set size of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has exited")


def median(values: list[float]) -> float:
    """Median of the rounds."""
    return statistics.median(values)
