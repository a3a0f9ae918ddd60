"""Memory and response times of a server under load."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from support.server import Server

PATIENCE = 2000
"""Units of work (support.faults.effort) for others that an answer may wait for: about two seconds of a core."""


class Memory:
    """The resident memory of a server, looked at all the time; MiB."""

    def __init__(self, server: Server) -> None:
        self._process = psutil.Process(server.pid)
        self.before = self.now
        self.peak = self.before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def now(self) -> float:
        """At this moment."""
        return self._process.memory_info().rss / (1 << 20)

    @property
    def growth(self) -> float:
        """The most it has grown."""
        return self.peak - self.before

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.peak = max(self.peak, self.now)


class Pulse:
    """Polls ``/healthz`` continuously, on a new connection each, and records response times.

    In a process of its own: it must measure the server, not how busy the test is. What counts is how much the
    server worked for others meanwhile, so that neither a busy nor a slow machine makes a difference.
    """

    def __init__(self, server: Server) -> None:
        asker = str(Path(__file__).with_name("asker.py"))
        command = [sys.executable, "-S", asker, str(server.settings["port"]), str(server.pid)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._server = psutil.Process(server.pid)
        self._before = self._spent()
        self.took: list[float] = []
        self._units: list[float] = []
        self._thread = threading.Thread(target=self._hear, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._thread.join()
        self._process.wait()

    @property
    def worst(self) -> float:
        """The most work of the server for others that an answer had to wait for; CPU seconds."""
        return max(self.took)

    def healthy(self, share: float = 0.0) -> None:
        """It was asked often enough, and never did much for others before it answered.

        ``share``: where a crowd comes at once, such a part of all it had to do meanwhile is not much.
        """
        end = time.monotonic() + 300
        while len(self.took) < 20 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(self.took) >= 20, f"it answered {len(self.took)} times"
        all_of_it = self._spent() - self._before
        bound = max(PATIENCE * statistics.median(self._units), all_of_it * share)
        assert self.worst <= bound, (
            f"an answer waited for {self.worst:.2f} s of work, of {all_of_it:.2f} s in all"
        )

    def _spent(self) -> float:
        times = self._server.cpu_times()
        return float(times.user + times.system)

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as told:
            for line in told:
                took, unit = map(float, line.split())
                self.took.append(took)
                self._units.append(unit)
