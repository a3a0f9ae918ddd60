"""Processes that have everything imported from their beginning, since imports are most of the cost of a start.

One process (this file, run as a program) imports and then waits; each server, and each command of the command line, is a
fork of it, which runs the program it is told. It has its own environment, directory and standard streams, is killed and
waited for as any process, and ends with the tests. Tests of starting itself take :mod:`subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

_SERVER = ("uvloop", "pilothouse.server.main", "pilothouse.server.settings", "alembic.command", "psycopg")
_COMMANDS = (
    "pilothouse.cli.app",
    "pilothouse.cli.failures",
    "pilothouse.cli.here",
    "pilothouse.client",
    "httpx",
    "rich.table",
    "typer._adapters",
    "yaml",
)
_PILOT = """
import sys
sys.argv[0] = "pilot"
from pilothouse.cli.main import main
sys.exit(main())
"""


class Forked:
    """A process of the nursery, with what of :class:`subprocess.Popen` tests use."""

    def __init__(self, pid: int, stdout: TextIOWrapper | None, status: int) -> None:
        self.pid = pid
        self.stdout = stdout
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

    def __init__(self, *imported: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), *imported],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """It ends, and with it all that it has forked."""
        self._socket.close()
        self._process.wait()

    def fork(
        self,
        program: str,
        arguments: Sequence[str],
        cwd: str | Path,
        env: Mapping[str, str],
        streams: Sequence[int],
    ) -> tuple[int, int]:
        """Run Python text as a program with these arguments and standard streams.

        Returns its process id and a descriptor to which its exit code will be written.
        """
        asked = {"program": program, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        status, theirs = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], [*streams, theirs])
        finally:
            os.close(theirs)
        return int(self._socket.recv(16)), status


_nurseries: dict[tuple[int, tuple[str, ...]], Nursery] = {}


def _nursery(imported: tuple[str, ...]) -> Nursery:
    """The one of this test process in the network namespace of this thread, which its children have as well."""
    key = os.stat("/proc/thread-self/ns/net").st_ino, imported
    if key not in _nurseries:
        _nurseries[key] = Nursery(*imported)
    return _nurseries[key]


def server(program: str, arguments: Sequence[str], log: Path) -> Forked:
    """A server, in this process's directory and environment but for ``PILOT_*``; its stderr goes to ``log``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
    said, stdout = os.pipe()
    with open(os.devnull, "rb") as stdin, log.open("ab") as stderr:
        try:
            streams = stdin.fileno(), stdout, stderr.fileno()
            pid, status = _nursery(_SERVER).fork(program, arguments, os.getcwd(), environment, streams)
        finally:
            os.close(stdout)
    return Forked(pid, open(said, encoding="utf-8", errors="replace"), status)


def pilot(
    words: Sequence[str], *, cwd: str | Path, env: Mapping[str, str], stdin: str = "", timeout: float
) -> subprocess.CompletedProcess[str]:
    """A command of the command line, ended."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin.encode())
        files[0].seek(0)
        streams = [file.fileno() for file in files]
        pid, status = _nursery(_COMMANDS).fork(_PILOT, words, cwd, env, streams)
        process = Forked(pid, None, status)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        said = []
        for file in files[1:]:
            file.seek(0)
            said.append(file.read().decode())
        return subprocess.CompletedProcess(["pilot", *words], code, *said)


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
            text, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 4)
            if not text:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                for number, descriptor in enumerate(descriptors[:3]):
                    os.dup2(descriptor, number)
                for descriptor in (*descriptors, *running.values(), woken, wake):
                    os.close(descriptor)
                return dict(json.loads(text))
            control.send(str(pid).encode())
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            running[pid] = descriptors[3]


if __name__ == "__main__":
    for _name in sys.argv[2:]:
        importlib.import_module(_name)
    gc.collect()
    gc.freeze()  # what is here stays, and no child copies it to look at it
    _asked = serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(_asked["env"])
    os.chdir(_asked["cwd"])
    sys.argv = ["-c", *_asked["arguments"]]
    exec(compile(_asked["program"], "server", "exec"), {"__name__": "__main__"})
