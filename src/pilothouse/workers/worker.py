"""The pool's side of one worker process: starts it, sends jobs, kills it, detects its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from pilothouse.workers import frames
from pilothouse.workers.errors import Crashed, OutOfMemory, TimedOut, WorkError
from pilothouse.workers.frames import Decoder, Frame, FrameError
from pilothouse.workers.limits import Limits, isolated_python

START_WITHIN = 60.0  # seconds to start, import the job's module and take the arguments
CHUNK = 256 << 10  # bytes read at once
_CODE = "from pilothouse.workers.child import main; main()"


class NotStarted(Exception):
    """The worker ended before it began the job, which can be given to another worker."""


@dataclass(frozen=True, slots=True)
class Request:
    """A job, encoded. ``size``: bytes of the arguments."""

    number: int
    pieces: list[bytes]
    size: int
    limits: Limits


class Worker:
    """One process. ``on_end`` is called once, from the event loop, when the process is gone.

    Starting blocks for some milliseconds; it must happen in the thread of the event loop, since the kernel ends the
    process with the thread that started it. Raises OSError.
    """

    def __init__(self, on_end: Callable[[Worker], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        try:
            with theirs:
                self._process = _start(theirs)
        except OSError:
            self._socket.close()
            raise
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._ended, on_end)
        self._killed_for: WorkError | None = None
        self.asked = False  # whether a task waits for an answer
        self.gone = asyncio.Event()
        self.jobs = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, request: Request) -> Frame:
        """The answer of a job. Raises WorkError, NotStarted; after an error or a cancel the worker must be killed."""
        self.jobs += 1
        self.asked = True
        try:
            return await self._talk(request, Decoder(request.limits.result))
        finally:
            self.asked = False
            if self.gone.is_set():
                self._socket.close()

    async def _talk(self, request: Request, decoder: Decoder) -> Frame:
        try:
            async with asyncio.timeout(START_WITHIN):
                await self._begin(request, decoder)
        except TimeoutError:
            raise Crashed(f"the worker did not start within {START_WITHIN:g} s") from None
        try:
            async with asyncio.timeout(request.limits.wall):
                return await self._finish(request, decoder)
        except TimeoutError:
            raise TimedOut("wall", request.limits.wall) from None

    async def _begin(self, request: Request, decoder: Decoder) -> None:
        try:
            for piece in request.pieces:
                await self._loop.sock_sendall(self._socket, piece)
            started = await self._receive(decoder)
        except (FrameError, OSError):
            started = None
        if started is None or (started.kind, started.number) != (frames.STARTED, request.number):
            if self._killed_for is not None:
                raise self._killed_for
            raise NotStarted

    async def _finish(self, request: Request, decoder: Decoder) -> Frame:
        try:
            answer = await self._receive(decoder)
        except FrameError:
            raise Crashed("the worker sent an invalid answer") from None
        except OSError:
            answer = None
        if answer is None:
            raise await self._reason(request.limits)
        if answer.number != request.number or not frames.is_answer(answer):
            raise Crashed("the worker sent an invalid answer")
        return answer

    async def _receive(self, decoder: Decoder) -> Frame | None:
        """The next frame; None at the end of the connection. Raises FrameError, OSError."""
        while (frame := decoder.next()) is None:
            data = await self._loop.sock_recv(self._socket, CHUNK)
            if not data:
                return None
            decoder.feed(data)
        return frame

    async def _reason(self, limits: Limits) -> WorkError:
        """The reason for which the process ended in the middle of a job."""
        if self._killed_for is not None:
            return self._killed_for
        await self.gone.wait()
        code = self._process.returncode
        if code in (-signal.SIGPROF, -signal.SIGXCPU):
            return TimedOut("cpu", limits.cpu)
        if code == -signal.SIGKILL:
            return OutOfMemory("system")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Crashed(f"the worker ended with {name}")

    def kill(self, reason: WorkError | None = None) -> None:
        """Kill the process. A job that it runs fails with ``reason``."""
        self._killed_for = reason
        self._process.kill()

    def _ended(self, on_end: Callable[[Worker], None]) -> None:
        if self._process.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.gone.set()
        if not self.asked:  # otherwise the waiting task reads the end of the connection
            self._socket.close()
        on_end(self)


def _start(connection: socket.socket) -> subprocess.Popen[bytes]:
    paths = [path for path in sys.path if path and os.path.isdir(path)]
    # A new session: Ctrl-C and signals to our process group do not reach it. No environment, which may hold secrets.
    return subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [*isolated_python(_CODE, paths), str(os.getpid())],
        stdin=connection.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    )
