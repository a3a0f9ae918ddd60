"""Runs steps as processes of this machine: `shell/command` and `shell/script`. Linux 5.3 or later.

The guard starts each step and ends it (`reaping/`). When a step ends, all processes that it started are killed,
including background processes and daemons; then its pipes are read to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import sys
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from pilothouse.agent import job_env
from pilothouse.agent.executors import environment
from pilothouse.agent.executors.base import Condition, Outcome, StepReporter, StepTask, Stream, race
from pilothouse.agent.executors.files import StepFolders
from pilothouse.agent.executors.launch import Launcher, StepRefused
from pilothouse.agent.executors.output import StepOutput
from pilothouse.agent.executors.users import StepUser
from pilothouse.agent.guard import ABANDON_WITHIN, Guard, GuardFailed, StartFailed, Supervised
from pilothouse.agent.lines import MAX_LINE_BYTES
from pilothouse.agent.reaping.supervisor import Request

CHUNK = 64 * 1024  # bytes
MAX_PIPE = 1024 * 1024  # bytes; the most a pipe may hold, 64 KiB unless a step asks for more
UNKILLABLE = 137  # exit code of a shell that was killed, or that SIGKILL did not end in time
ANSWER_WITHIN = 5.0  # seconds for a supervisor to report remaining processes, on a busy machine
BROKEN = "the process that supervises this step was killed"

Ending = Literal["done", "cancelled", "timed_out", "refused"]

log = structlog.get_logger("agent.process")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """`data_dir` contains the steps' files (`steps/`) and the variables that they wrote to `PILOT_ENV` (`env/`)."""

    data_dir: Path
    run_as: str | None = None  # user name or number; requires that the agent is root
    pass_env: tuple[str, ...] = ()  # variables of the agent that steps get although they look private
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    linger: float = 1.0  # seconds for processes that outlive the shell to close its output (`> >(tee log)`)
    kill_within: float = 30.0  # seconds to wait for killed processes
    max_line: int = MAX_LINE_BYTES


class ProcessExecutor:
    """The default executor. Raises UnknownUser if the user `run_as` does not exist."""

    def __init__(self, settings: ProcessSettings, guard: Guard) -> None:
        self._settings, self._guard = settings, guard
        self.user = StepUser.find(settings.run_as)
        folders = StepFolders(settings.data_dir / "steps", self.user.owner)
        inherited = environment.of_the_agent(os.environ, settings.pass_env)
        self._launcher = Launcher(self.user, folders, inherited)
        self.job_environments = job_env.JobEnvironments(settings.data_dir / "env")
        self.survivors = Survivors()

    @property
    def announcement(self) -> str:
        """The user that steps run as, as a message for the log."""
        if self.user.switched:
            return f"steps run as user {self.user.name}"
        return f"steps run as the agent's own user {self.user.name} and may do all that the agent may"

    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        output = StepOutput(task, report, self._settings.max_line)
        if cancel.is_set():
            return Outcome("cancelled", 143, "cancelled before it started")
        try:
            with self._launcher.prepare(task, self.job_environments.load(task.workspace_id)) as launch:
                supervised = await self._start(launch.request)
                step = _Step(task, supervised, self._settings, report, output)
                try:
                    return await step.run(cancel)
                finally:
                    if supervised.broken or supervised.unguarded:
                        await self._end_strays(task, supervised)
                    self.survivors.add(task, supervised)
                    self._keep(task, launch.env_file, output)
        except StepRefused as refused:
            return Outcome("failed", refused.exit_code, output.mask(str(refused)))

    async def _start(self, request: Request) -> Supervised:
        shell = request.argv[0]
        try:
            return await self._guard.start(request)
        except GuardFailed as failed:
            raise StepRefused(str(failed)) from None
        except StartFailed as failed:
            if failed.at == "guard":
                raise StepRefused("the agent's guard ended while it started this step") from None
            if failed.at == "directory":
                raise StepRefused(f"cannot enter the working directory: {failed}") from None
            if failed.number == errno.ENOENT:
                raise StepRefused(f"shell {shell} not found", 127) from None
            raise StepRefused(f"cannot start {shell}: {failed}", 126) from None

    async def _end_strays(self, task: StepTask, supervised: Supervised) -> None:
        try:
            await self._guard.end_strays(f"PILOT_STEP_RUN_ID={task.step_run_id}", supervised)
        except GuardFailed as failed:  # the next step fails with this error
            log.warning("agent.guard_failed", reason=str(failed))

    def _keep(self, task: StepTask, env_file: Path, output: StepOutput) -> None:
        """Store the variables that the step wrote to `PILOT_ENV`, whatever its result."""
        written = job_env.read(env_file)
        self.job_environments.add(task.workspace_id, written)
        for warning in written.warnings:
            output.note(f"warning: PILOT_ENV: {warning}")


@dataclass
class Survivors:
    """Processes of ended steps that could not be killed. Each such step occupies a slot until they are gone.

    `on_change` is called whenever the number of such steps changes.
    """

    on_change: Callable[[], None] = lambda: None
    _left: dict[str, str] = field(default_factory=dict)
    _watching: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def condition(self) -> Condition:
        return Condition(len(self._left), tuple(self._left.values()))

    def add(self, task: StepTask, supervised: Supervised) -> None:
        """Watch the remaining processes of an ended step, if there are any."""
        if supervised.gone.done() or not supervised.left.done():
            supervised.close()
            return
        who = ", ".join(supervised.left.result()) or "processes"
        self._left[task.step_run_id] = (
            f"step {task.job_name}/{task.step_name} left processes that cannot be killed: {who}"
        )
        log.warning("agent.slot_blocked", step_run_id=task.step_run_id, left=supervised.left.result())
        watching = asyncio.create_task(self._watch(task.step_run_id, supervised))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        self.on_change()

    async def _watch(self, step_run_id: str, supervised: Supervised) -> None:
        try:
            await supervised.gone
        finally:
            supervised.close()
        del self._left[step_run_id]
        log.info("agent.slot_free_again", step_run_id=step_run_id)
        self.on_change()


class _Step:
    """One running step, from the start of its shell to the end of its last process."""

    def __init__(
        self,
        task: StepTask,
        supervised: Supervised,
        settings: ProcessSettings,
        report: StepReporter,
        output: StepOutput,
    ) -> None:
        self._task, self._supervised, self._settings, self._output = task, supervised, settings, output
        stdout = _Pump("stdout", supervised.stdout, output, report.drain)
        stderr = _Pump("stderr", supervised.stderr, output, report.drain, before=stdout)
        self._pumps = [stdout, stderr]

    async def run(self, cancel: asyncio.Event) -> Outcome:
        reading = [asyncio.ensure_future(pump.run()) for pump in self._pumps]
        over = False
        try:
            ending = await race(self._supervised.exit_code, cancel, self._task.timeout, self._output.refused)
            if ending == "done":
                await asyncio.wait(reading, timeout=self._settings.linger)
            else:
                self._supervised.terminate()
                await asyncio.wait({self._supervised.gone}, timeout=self._settings.grace)
            left = await self._kill(self._settings.kill_within)
            over = True
            for pump in self._pumps:
                pump.finish()
            await asyncio.gather(*reading)
            return self._outcome(ending, left)
        finally:
            # All processes have ended by now, unless this call was cancelled or the reporter failed.
            for reader in reading:
                reader.cancel()
            if not over and not self._supervised.gone.done():
                self._supervised.kill(ABANDON_WITHIN)
                await asyncio.wait({self._supervised.gone}, timeout=ABANDON_WITHIN)

    async def _kill(self, within: float) -> list[str]:
        """Kill all processes; returns descriptions of those that could not be killed."""
        gone, left = self._supervised.gone, self._supervised.left
        if gone.done():
            return []
        self._supervised.kill(within)
        either: set[asyncio.Future[Any]] = {gone, left}
        await asyncio.wait(either, timeout=within + ANSWER_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return []
        return left.result() if left.done() else ["its supervisor, which does not respond"]

    def _outcome(self, ending: Ending, left: list[str]) -> Outcome:
        exited = self._supervised.exit_code
        exit_code = exited.result() if exited.done() else UNKILLABLE
        outcome = self._verdict(ending, exit_code)
        if not left:
            return outcome
        seconds = self._settings.kill_within
        more = f"could not be killed within {seconds:g} s: {', '.join(left)}"
        return Outcome(
            outcome.status, outcome.exit_code, f"{outcome.error}; {more}" if outcome.error else more
        )

    def _verdict(self, ending: Ending, exit_code: int) -> Outcome:
        if ending == "cancelled":
            return Outcome("cancelled", exit_code, "cancelled")
        if ending == "timed_out":
            return Outcome("timed_out", exit_code, f"timed out after {self._task.timeout:g} s")
        if self._output.refusal:
            return Outcome("failed", exit_code or 1, self._output.refusal)
        if exit_code == 0:
            return Outcome("succeeded", 0)
        if self._supervised.broken or (exit_code == UNKILLABLE and self._supervised.unguarded):
            return Outcome("failed", exit_code, BROKEN)
        return Outcome("failed", exit_code, _reason(exit_code))


def _reason(exit_code: int) -> str:
    if exit_code == 127:
        return "exit code 127 (command not found)"
    if exit_code > 128:
        with contextlib.suppress(ValueError):
            return f"exit code {exit_code} ({signal.Signals(exit_code - 128).name})"
    return f"exit code {exit_code}"


class _Pump:
    """Reads one pipe of a step to its end, in chunks, with backpressure from the reporter.

    A process that could not be killed may keep the pipe open. After `finish`, only the data already in the pipe is
    read, which includes everything that the ended processes wrote.

    `before`: a pipe that is read first whenever this one is. A step may write `::mask` to stdout and then the value
    to stderr, and the order between two pipes is not known.
    """

    def __init__(
        self,
        stream: Stream,
        pipe: int,
        output: StepOutput,
        drain: Callable[[], Awaitable[None]],
        before: _Pump | None = None,
    ) -> None:
        self._stream, self._pipe, self._output, self._drain = stream, pipe, output, drain
        self._before = before
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._ended = False
        self._allowance: int | None = None  # bytes still to read once finishing
        os.set_blocking(pipe, False)

    async def run(self) -> None:
        try:
            while not self._ended:
                async with self._turn:
                    taken = await self._take(CHUNK)
                if not taken and not self._ended:
                    await self._readable()
                await asyncio.sleep(0)  # a step that writes continuously must not block others
            self._output.finish(self._stream)
        finally:
            self._ended = True
            os.close(self._pipe)

    def finish(self) -> None:
        self._allowance = MAX_PIPE
        self._wake.set()

    async def catch_up(self) -> None:
        """Process the data that is currently in the pipe."""
        async with self._turn:
            waiting = 0 if self._ended else _bytes_in(self._pipe)
            while waiting > 0 and (taken := await self._take(min(waiting, CHUNK))):
                waiting -= taken
                self._wake.set()  # whoever waits for more has another unfinished line to show

    async def _take(self, size: int) -> int:
        """Read and process at most ``size`` bytes; returns the number of bytes."""
        if self._ended:
            return 0
        try:
            chunk = os.read(self._pipe, size)
        except BlockingIOError:
            self._ended = self._allowance is not None
            return 0
        if self._allowance is not None:
            self._allowance -= len(chunk)
        self._ended = not chunk or (self._allowance is not None and self._allowance <= 0)
        if chunk:
            if self._before is not None:
                await self._before.catch_up()
            await self._output.take(self._stream, chunk)
            await self._drain()
        return len(chunk)

    async def _readable(self) -> None:
        loop, fd = asyncio.get_running_loop(), self._pipe
        self._wake.clear()
        loop.add_reader(fd, self._wake.set)
        try:
            await self._output.until(self._stream, self._wake)
        finally:
            loop.remove_reader(fd)


def _bytes_in(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
