"""Programs that work on untrusted input, such as git: bounded, and killed with their descendants when cancelled.

They do not inherit the environment. A watcher, such as the agent's guard, kills them if this process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pilothouse.workers.limits import isolated_python, lower

KILL_WITHIN = 10.0  # seconds to wait for a killed child
KEEP = 16 << 20  # bytes of output that are read
_LOOK = 0.1  # seconds between two looks at how much a child has written


_PACKAGES = str(Path(__file__).parents[2])


class ChildTimeout(Exception):
    """The child exceeded its time limit and was killed."""

    code = "CHILD_TIMEOUT"


class ChildWroteTooMuch(Exception):
    """The child wrote more than its limit, and was killed if it was still running."""

    code = "CHILD_WROTE_TOO_MUCH"


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds``: wall time and CPU time; ``output``: bytes of each file it writes, 0 for no limit; ``memory``:
    bytes that each process may allocate, not counting files mapped read-only. ``written``: bytes that it and its
    children may write in total, 0 for no limit; checked periodically and at the end."""

    seconds: float = 600.0
    output: int = 0
    written: int = 0
    memory: int = 3 << 30  # two versions of the largest file of which git makes deltas, in two threads


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended; ``code`` is negative after a signal."""

    code: int
    stdout: bytes
    stderr: bytes


def script(module: str) -> list[str]:
    """The command line that runs ``main`` of a module of this package, without third-party packages."""
    return isolated_python(f"from {module} import main; main()", [_PACKAGES])


class Watcher(Protocol):
    """Kills processes if this process dies before them."""

    def watch(self, pid: int) -> None:
        """Kill the session of this process when this process dies."""

    def forget(self, pid: int) -> None:
        """The process has ended."""


class Children:
    """``scratch``: a directory for captured output."""

    def __init__(self, scratch: Path, watcher: Watcher | None = None) -> None:
        self._scratch = scratch
        self._watcher = watcher

    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | str = "/",
        env: Mapping[str, str] | None = None,
        stdin: bytes | Path = b"",
        stdout: Path | None = None,
        limits: Limits = Limits(),
    ) -> Ended:
        """Run a child to its end; if cancelled, kill it first. Raises ChildTimeout, ChildWroteTooMuch, OSError.

        ``stdout``: a file to print to, instead of capturing the output.
        """
        with contextlib.ExitStack() as stack:
            given = self._input(stdin, stack)
            out = stack.enter_context(stdout.open("wb") if stdout else self._file())
            err = stack.enter_context(self._file())
            process = _start(argv, cwd, env or {}, (given, out, err))
            with self._watched(process.pid):
                _bound(process.pid, limits)
                code = await _wait(process, limits)
            return Ended(code, b"" if stdout else _read(out), _read(err))

    @contextlib.contextmanager
    def _watched(self, pid: int) -> Iterator[None]:
        if self._watcher is not None:
            self._watcher.watch(pid)
        try:
            yield
        finally:
            if self._watcher is not None:
                self._watcher.forget(pid)

    def _input(self, stdin: bytes | Path, stack: contextlib.ExitStack) -> IO[bytes] | int:
        if isinstance(stdin, Path):
            return stack.enter_context(stdin.open("rb"))
        if not stdin:
            return subprocess.DEVNULL
        file = stack.enter_context(self._file())
        file.write(stdin)
        file.seek(0)
        return file

    def _file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._scratch)


def _start(
    argv: Sequence[str],
    cwd: Path | str,
    env: Mapping[str, str],
    streams: tuple[IO[bytes] | int, IO[bytes], IO[bytes]],
) -> subprocess.Popen[bytes]:
    given, out, err = streams
    return subprocess.Popen(
        argv, cwd=cwd, env=env, stdin=given, stdout=out, stderr=err, start_new_session=True, umask=0o022
    )


def _bound(pid: int, limits: Limits) -> None:
    seconds = int(limits.seconds) + 1
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_DATA: limits.memory,
    }
    if limits.output:
        wanted[resource.RLIMIT_FSIZE] = limits.output
    lower(wanted, pid)


async def _wait(process: subprocess.Popen[bytes], limits: Limits) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(limits.seconds):
            while limits.written and not ended.is_set():
                _look(process.pid, limits.written)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _LOOK)
            await ended.wait()
        if limits.written:
            _look(process.pid, limits.written)
    except TimeoutError:
        raise ChildTimeout(f"it took longer than {limits.seconds:g} s") from None
    finally:
        # Its own children are in its session and must not survive it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_WITHIN):
                    await ended.wait()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        if ended.is_set():
            process.wait()
    return process.wait()


def _look(pid: int, most: int) -> None:
    """Raises ChildWroteTooMuch. The child must not be reaped yet, so that /proc still has its counters."""
    if _written(pid) > most:
        raise ChildWroteTooMuch(f"it wrote more than {most} bytes")


def _written(pid: int | str) -> int:
    """Bytes written by the process and its children. 0 where the kernel does not count them."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            own = next((int(line[7:]) for line in file if line.startswith(b"wchar: ")), 0)
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return own + sum(map(_written, file.read().split()))
    except OSError:
        return 0


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(KEEP)
