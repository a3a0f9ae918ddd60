"""Steps as processes of this machine: `shell/command` and `shell/script`. Linux 5.3 or later.

The guard starts a step and sees to its end (`reaping/`). However a step ends, everything it started is killed with
it, background processes and daemons included; afterwards its pipes are read to the end.
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
UNKILLABLE = 137  # exit code of a shell that was killed, or that even SIGKILL did not end in time
ANSWER_WITHIN = 5.0  # seconds a supervisor has to say what is left, on a busy machine
BROKEN = "the process that supervises this step was killed"

Ending = Literal["done", "cancelled", "timed_out", "refused"]

log = structlog.get_logger("agent.process")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """`data_dir`: below it are the steps' files (`steps/`) and what they wrote to `PILOT_ENV` (`env/`)."""

    data_dir: Path
    run_as: str | None = None  # user name or number; honoured where the agent is root
    pass_env: tuple[str, ...] = ()  # of the agent's environment, what steps get though it looks private
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    linger: float = 1.0  # seconds what outlives the shell has to close its output (`> >(tee log)`)
    kill_within: float = 30.0  # seconds after which processes that cannot be killed are given up
    max_line: int = MAX_LINE_BYTES


class ProcessExecutor:
    """The default executor. Raises UnknownUser if `run_as` names nobody."""

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
        """For the log and the agent's properties: whom steps run as, said plainly."""
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
        except GuardFailed as failed:  # which the next step says
            log.warning("agent.guard_failed", reason=str(failed))

    def _keep(self, task: StepTask, env_file: Path, output: StepOutput) -> None:
        """Take over what the step has written to `PILOT_ENV`, however it ended."""
        written = job_env.read(env_file)
        self.job_environments.add(task.workspace_id, written)
        for warning in written.warnings:
            output.note(f"warning: PILOT_ENV: {warning}")


@dataclass
class Survivors:
    """Processes of ended steps that could not be killed. Each such step takes a slot until they are gone.

    `on_change` is called whenever there is one more or one less.
    """

    on_change: Callable[[], None] = lambda: None
    _left: dict[str, str] = field(default_factory=dict)
    _watching: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def condition(self) -> Condition:
        return Condition(len(self._left), tuple(self._left.values()))

    def add(self, task: StepTask, supervised: Supervised) -> None:
        """Of a step that is over: watch what is left of it, if anything is."""
        if supervised.gone.done() or not supervised.left.done():
            supervised.close()
            return
        who = ", ".join(supervised.left.result()) or "processes"
        self._left[task.step_run_id] = (
            f"step {task.job_name}/{task.step_name} left what cannot be killed: {who}"
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
    """One running step, from the start of its shell to the death of the last process."""

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
            # Everything has ended by now, unless this very call was cancelled or the reporter has failed.
            for reader in reading:
                reader.cancel()
            if not over and not self._supervised.gone.done():
                self._supervised.kill(ABANDON_WITHIN)
                await asyncio.wait({self._supervised.gone}, timeout=ABANDON_WITHIN)

    async def _kill(self, within: float) -> list[str]:
        """What could not be killed."""
        gone, left = self._supervised.gone, self._supervised.left
        if gone.done():
            return []
        self._supervised.kill(within)
        either: set[asyncio.Future[Any]] = {gone, left}
        await asyncio.wait(either, timeout=within + ANSWER_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return []
        return left.result() if left.done() else ["its supervisor, which does not answer"]

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
    """Reads one pipe of a step to its end, in chunks, not faster than the reporter can take it.

    An end need not come: a process that could not be killed may hold the pipe. After `finish` only what
    is in the pipe is read, which has all that the dead have written.

    `before`: the pipe in which everything stands that was written earlier than what is read here. A step that says
    `::mask` on stdout and then the value on stderr has both waiting, and in no order.
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
                await asyncio.sleep(0)  # a step that writes without pause must not stop all others
            self._output.finish(self._stream)
        finally:
            self._ended = True
            os.close(self._pipe)

    def finish(self) -> None:
        self._allowance = MAX_PIPE
        self._wake.set()

    async def catch_up(self) -> None:
        """Take what is in the pipe by now."""
        async with self._turn:
            waiting = 0 if self._ended else _bytes_in(self._pipe)
            while waiting > 0 and (taken := await self._take(min(waiting, CHUNK))):
                waiting -= taken
                self._wake.set()  # whoever waits for more has another unfinished line to show

    async def _take(self, size: int) -> int:
        """Read and work on so many bytes at most; gives how many there were."""
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
