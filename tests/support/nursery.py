"""Processes that have everything of a server imported from their beginning, since imports are most of the cost of a start.

One process (this file, run as a program) imports and then waits; each server is a fork of it, which runs the program it
is told. It has its own environment, stdout and log, is killed and waited for as any process, and ends with the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Any

_IMPORTED = ("uvloop", "pilothouse.server.main", "pilothouse.server.settings", "alembic.command", "psycopg")


class Forked:
    """A process of the nursery, with what of :class:`subprocess.Popen` tests use."""

    def __init__(self, pid: int, stdout: int, status: int) -> None:
        self.pid = pid
        self.stdout: TextIOWrapper = open(stdout, encoding="utf-8", errors="replace")  # noqa: SIM115
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Its exit code, or ``None`` while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self._ended(1)) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("server", timeout or 0)
        return code

    def _ended(self, seconds: float) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            # Nothing: the nursery itself is gone, and all that came from it.
            self.returncode = int(os.read(self._status, 16) or -signal.SIGKILL)
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks, as tests see it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[1],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """It ends, and with it all that it has forked."""
        self._socket.close()
        self._process.wait()

    def fork(self, program: str, argument: str, log: Path) -> Forked:
        """Run Python text as a program with one argument, in this process's directory and environment but for ``PILOT_*``."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        asked = {"program": program, "argument": argument, "cwd": os.getcwd(), "env": environment}
        stdout, their_stdout = os.pipe()
        status, their_status = os.pipe()
        with log.open("ab") as stderr:
            theirs = [their_stdout, stderr.fileno(), their_status]
            socket.send_fds(self._socket, [json.dumps(asked).encode()], theirs)
        os.close(their_stdout)
        os.close(their_status)
        return Forked(int(self._socket.recv(16)), stdout, status)


_nursery: list[Nursery] = []


def fork(program: str, argument: str, log: Path) -> Forked:
    """A process of the one nursery of this test process (:meth:`Nursery.fork`)."""
    if not _nursery:
        _nursery.append(Nursery())
    return _nursery[0].fork(program, argument, log)


# -- the program ----------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork whenever asked; returns in the children, with what they were asked to run."""
    running: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            os.write(running[pid], str(os.waitstatus_to_exitcode(status)).encode())
            os.close(running.pop(pid))
        if control in ready:
            text, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
            if not text:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                os.dup2(descriptors[0], 1)
                os.dup2(descriptors[1], 2)
                for descriptor in (*descriptors, *running.values(), woken, wake):
                    os.close(descriptor)
                return dict(json.loads(text))
            control.send(str(pid).encode())
            os.close(descriptors[0])
            os.close(descriptors[1])
            running[pid] = descriptors[2]


if __name__ == "__main__":
    for _name in _IMPORTED:
        importlib.import_module(_name)
    _asked = serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(_asked["env"])
    os.chdir(_asked["cwd"])
    sys.argv = ["-c", _asked["argument"]]
    exec(compile(_asked["program"], "server", "exec"), {"__name__": "__main__"})
