"""Steps as processes of this machine: `shell/command` and `shell/script`. Linux 5.3 or later (pidfd, /proc).

A step has its own session and process group. However it ends, everything it started is killed with it,
background processes and daemons included; afterwards its pipes are read to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, Literal

from pilothouse.agent.executors.base import Outcome, StepReporter, StepTask, Stream, race
from pilothouse.agent.executors.launch import Launch, StepRefused, StepUser, prepare
from pilothouse.agent.executors.output import StepOutput
from pilothouse.agent.guard import COOKIE_VARIABLE, Marks, group_alive, kill_family, start_of
from pilothouse.agent.lines import MAX_LINE_BYTES

CHUNK = 64 * 1024  # bytes
MAX_PIPE = 1024 * 1024  # bytes; the most a pipe may hold, 64 KiB unless a step asks for more
UNKILLABLE = 137  # exit code of a shell that even SIGKILL did not end in time
POLL = 0.05  # seconds between looks whether a process group has ended

Ending = Literal["done", "cancelled", "timed_out", "refused"]


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    cookie: str  # of the agent's guard
    run_as: str | None = None  # user name or number; honoured where the agent is root
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    linger: float = 1.0  # seconds what outlives the shell has to close its output (`> >(tee log)`)
    kill_within: float = 10.0  # seconds after which processes that cannot be killed are given up
    max_line: int = MAX_LINE_BYTES


class ProcessExecutor:
    """The default executor. Raises UnknownUser if `run_as` names nobody."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self.user = StepUser.find(settings.run_as)

    @property
    def announcement(self) -> str:
        """For the log and the agent's properties: whom steps run as, said plainly."""
        if self.user.switched:
            return f"steps run as user {self.user.name}"
        return f"steps run as the agent's own user {self.user.name} and may do all that the agent may"

    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        output = StepOutput(task, report, self._settings.max_line)
        if cancel.is_set():
            return Outcome("cancelled", 143, "cancelled before it started")
        try:
            with prepare(task, self.user, self._settings.cookie) as launch:
                step = _Step(task, launch, self.user, self._settings, report, output)
                return await step.run(cancel)
        except StepRefused as refused:
            return Outcome("failed", refused.exit_code, output.mask(str(refused)))


class _Step:
    """One running step, from the start of its shell to the death of the last process. Raises StepRefused."""

    def __init__(
        self,
        task: StepTask,
        launch: Launch,
        user: StepUser,
        settings: ProcessSettings,
        report: StepReporter,
        output: StepOutput,
    ) -> None:
        self._task, self._settings, self._output = task, settings, output
        self._shell = _start(launch, user)
        carried = (f"{COOKIE_VARIABLE}={settings.cookie}", f"PILOT_STEP_RUN_ID={task.step_run_id}")
        self._marks = Marks(
            environment=tuple(map(os.fsencode, carried)),
            session=self._shell.pid,
            since=start_of(self._shell.pid),
        )
        self._exit = _exit_of(self._shell)
        self._pumps = [
            _Pump("stdout", self._shell.stdout, output, report.drain),
            _Pump("stderr", self._shell.stderr, output, report.drain),
        ]

    async def run(self, cancel: asyncio.Event) -> Outcome:
        reading = [asyncio.ensure_future(pump.run()) for pump in self._pumps]
        killed = False
        try:
            ending = await race(self._exit, cancel, self._task.timeout, self._output.refused)
            if ending == "done":
                await asyncio.wait(reading, timeout=self._settings.linger)
            else:
                await self._ask_to_end()
            await self._kill()
            killed = True
            for pump in self._pumps:
                pump.finish()
            await asyncio.gather(*reading)
            return self._outcome(ending, self._exit.result() if self._exit.done() else UNKILLABLE)
        finally:
            # Everything has ended by now, unless this very call was cancelled or the reporter has failed.
            for reader in reading:
                reader.cancel()
            if not killed:
                await self._kill()

    async def _ask_to_end(self) -> None:
        group = self._shell.pid
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
            os.killpg(group, signal.SIGCONT)  # a stopped process would not notice
        deadline = asyncio.get_running_loop().time() + self._settings.grace
        while asyncio.get_running_loop().time() < deadline:
            if self._exit.done() and not await asyncio.to_thread(group_alive, group):
                return
            await asyncio.sleep(POLL)

    async def _kill(self) -> None:
        left = await asyncio.to_thread(kill_family, self._marks, self._settings.kill_within)
        if left:
            self._output.note(f"warning: could not kill all processes of this step: {left}")
        await asyncio.wait({self._exit}, timeout=self._settings.kill_within)

    def _outcome(self, ending: Ending, exit_code: int) -> Outcome:
        if ending == "cancelled":
            return Outcome("cancelled", exit_code, "cancelled")
        if ending == "timed_out":
            return Outcome("timed_out", exit_code, f"timed out after {self._task.timeout:g} s")
        if self._output.refusal:
            return Outcome("failed", exit_code or 1, self._output.refusal)
        if exit_code == 0:
            return Outcome("succeeded", 0)
        return Outcome("failed", exit_code, _reason(exit_code))


def _start(launch: Launch, user: StepUser) -> subprocess.Popen[bytes]:
    # Starting takes about a millisecond; handing it to a thread would cost more and could lose the process.
    try:
        return subprocess.Popen(
            launch.argv,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=launch.directory,
            env=launch.environment,
            start_new_session=True,
            user=user.uid if user.switched else None,
            group=user.gid if user.switched else None,
            extra_groups=user.groups if user.switched else None,
        )
    except FileNotFoundError:
        raise StepRefused(f"shell {launch.argv[0]} not found", 127) from None
    except OSError as error:
        raise StepRefused(f"cannot start {launch.argv[0]}: {error.strerror}", 126) from None


def _exit_of(shell: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Becomes the exit code. A pidfd needs no thread per step and no child watcher."""
    loop = asyncio.get_running_loop()
    exit_code: asyncio.Future[int] = loop.create_future()
    pidfd = os.pidfd_open(shell.pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        code = shell.wait()
        if not exit_code.done():
            exit_code.set_result(128 - code if code < 0 else code)

    loop.add_reader(pidfd, ended)
    return exit_code


def _reason(exit_code: int) -> str:
    if exit_code == 127:
        return "exit code 127 (command not found)"
    if exit_code > 128:
        with contextlib.suppress(ValueError):
            return f"exit code {exit_code} ({signal.Signals(exit_code - 128).name})"
    return f"exit code {exit_code}"


class _Pump:
    """Reads one pipe of a step to its end, in chunks, not faster than the reporter can take it.

    An end need not come: a process that could not be killed may hold the pipe. After `finish` only what
    is in the pipe is read, which has all that the dead have written.
    """

    def __init__(
        self, stream: Stream, pipe: IO[bytes] | None, output: StepOutput, drain: Callable[[], Awaitable[None]]
    ) -> None:
        assert pipe is not None
        self._stream, self._pipe, self._output, self._drain = stream, pipe, output, drain
        self._wake = asyncio.Event()
        self._allowance: int | None = None  # bytes still to read once finishing
        os.set_blocking(pipe.fileno(), False)

    async def run(self) -> None:
        try:
            while chunk := await self._read():
                await self._output.take(self._stream, chunk)
                await self._drain()
                await asyncio.sleep(0)  # a step that writes without pause must not stop all others
            self._output.finish(self._stream)
        finally:
            self._pipe.close()

    def finish(self) -> None:
        self._allowance = MAX_PIPE
        self._wake.set()

    async def _read(self) -> bytes:
        """The next chunk; empty at the end."""
        while self._allowance is None or self._allowance > 0:
            try:
                chunk = os.read(self._pipe.fileno(), CHUNK)
            except BlockingIOError:
                if self._allowance is not None:
                    return b""
                await self._readable()
                continue
            if self._allowance is not None:
                self._allowance -= len(chunk)
            return chunk
        return b""

    async def _readable(self) -> None:
        loop, fd = asyncio.get_running_loop(), self._pipe.fileno()
        self._wake.clear()
        loop.add_reader(fd, self._wake.set)
        try:
            await self._output.until(self._stream, self._wake)
        finally:
            loop.remove_reader(fd)
