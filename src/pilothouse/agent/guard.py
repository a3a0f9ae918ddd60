"""The agent's side of the guard (`reaping/`): starts the guard process, and starts steps through its supervisors.

The guard is a separate process. When the agent ends for any reason, the guard ends all processes that the agent's
steps have started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from pilothouse.agent.reaping.packets import MAX_PACKET
from pilothouse.agent.reaping.strays import kill_strays
from pilothouse.agent.reaping.supervisor import Request

READY_WITHIN = 30.0  # seconds
MAX_IDLE = 16  # idle supervisors that are kept for later steps
ABANDON_WITHIN = 3.0  # seconds to wait for the killed processes of an abandoned step
_RETRY = 0.005  # seconds before the next attempt to send to a busy guard
_STRAYS = 0.02  # seconds between checks for processes left without a guard
_PROGRAM = Path(__file__).parent / "reaping" / "guard_process.py"

log = structlog.get_logger("agent.guard")


class GuardFailed(Exception):
    """The guard process could not be started."""

    code = "GUARD_FAILED"


class StartFailed(Exception):
    """A step could not be started. `number`: errno; `at`: `start`, `directory`, or `guard` (the guard has ended)."""

    code = "START_FAILED"

    def __init__(self, number: int, at: str) -> None:
        super().__init__(os.strerror(number))
        self.number, self.at = number, at


class Supervised:
    """A running step, as reported by its supervisor. All futures may be awaited any number of times.

    `stdout`, `stderr`: read ends of its pipes, which the caller closes. `exit_code`: of the shell, 128 + n after
    signal n. `gone`: set when no process of the step is left. `left`: processes that could not be killed within the
    seconds given to `kill`. `broken`: the supervisor was killed; the guard then ends the step's processes.
    `unguarded`: the guard was killed; the supervisor has then ended the step.
    `shell`: the pid of the step's shell, a session leader; 0 until it has started.
    """

    def __init__(
        self,
        control: socket.socket,
        number: int,
        done: Callable[[Supervised], None],
        guard: subprocess.Popen[bytes],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._guard = guard
        self.control, self.number = control, number
        self.stdout = self.stderr = -1
        self.shell = 0
        self.started: asyncio.Future[None] = loop.create_future()
        self.exit_code: asyncio.Future[int] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.left: asyncio.Future[list[str]] = loop.create_future()
        self.broken = False
        self._done = done
        loop.add_reader(control.fileno(), self._read_messages)

    @property
    def unguarded(self) -> bool:
        return self._guard.poll() is not None

    def start(self, request: Request) -> None:
        """Ask the supervisor to start the step. Raises OSError if the supervisor has ended."""
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        memory = _in_memory(request)
        try:
            packet = json.dumps({"start": self.number}).encode()
            socket.send_fds(self.control, [packet], [memory, stdout, stderr])
        finally:
            for fd in (memory, stdout, stderr):
                os.close(fd)

    def terminate(self) -> None:
        """Send SIGTERM to all processes of the step."""
        self._send({"terminate": True, "step": self.number})

    def kill(self, within: float) -> None:
        """Send SIGKILL to all processes until none is left; `left` is set after ``within`` seconds."""
        self._send({"kill": within, "step": self.number})

    def close(self) -> None:
        """Stop waiting for the step; its remaining processes are still killed."""
        if self.control.fileno() >= 0 and not self.gone.done():
            self._forget()
            self.control.close()

    def _forget(self) -> None:
        asyncio.get_running_loop().remove_reader(self.control.fileno())

    def _send(self, command: dict[str, Any]) -> None:
        if not self.gone.done():
            try:
                self.control.send(json.dumps(command).encode())
            except OSError:
                return  # the supervisor has ended; _read_messages detects this

    def _read_messages(self) -> None:
        """Read all available messages: after an error some event loops no longer watch the socket."""
        while not self.gone.done() and self.control.fileno() >= 0:
            try:
                packet = self.control.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended before it read our last message; its earlier messages follow
            except OSError:
                packet = b""
            if packet:
                self._handle(json.loads(packet))
            else:
                self._supervisor_gone()

    def _handle(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self.shell = message["started"]
            _settle(self.started, None)
        elif "exited" in message:
            _settle(self.exit_code, message["exited"])
        elif "left" in message:
            _settle(self.left, message["left"])
        else:
            if "failed" in message and not self.started.done():
                self.started.set_exception(StartFailed(message["failed"], message["at"]))
            self._forget()
            _settle(self.gone, None)
            self._done(self)

    def _supervisor_gone(self) -> None:
        self.close()
        self.broken = True
        if not self.started.done():
            self.started.set_exception(StartFailed(0, "guard"))
        _settle(self.exit_code, 137)
        _settle(self.gone, None)


def _in_memory(request: Request) -> int:
    """The request as a memory file, since it may be larger than a packet."""
    memory = os.memfd_create("request")
    with open(memory, "wb", closefd=False) as file:
        file.write(json.dumps(request._asdict()).encode())
    return memory


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


class Guard:
    """The guard process of this agent.

    `backend`: how it kills processes: `cgroup2`, `cgroup1` or `subreaper`; `why`: why preferred backends are not
    available. The constructor blocks until the process is ready, about 50 ms. Raises GuardFailed.
    """

    def __init__(self, wanted: str = "") -> None:
        """`wanted`: use this backend even if a preferred one is available, for tests."""
        self._wanted = wanted
        self._idle: list[socket.socket] = []  # supervisors that have no step
        self._steps = 0
        self._launch()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A new session: signals to the agent's process group, such as Ctrl-C, do not reach it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", _PROGRAM, str(theirs.fileno()), self._wanted],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env={},
                start_new_session=True,
            )
        ours.settimeout(READY_WITHIN)
        try:
            ready = ours.recv(MAX_PACKET)
        except OSError:
            ready = b""
        if not ready:
            ours.close()
            self._process.kill()
            raise GuardFailed(f"the guard ended with exit code {self._process.wait()}")
        ours.setblocking(False)
        threading.Thread(target=_continue_if_stopped, args=(self._process.pid,), daemon=True).start()
        self._socket = ours
        said = json.loads(ready)
        self.backend: str = said["backend"]
        self.why: str = said["why"]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def start(self, request: Request) -> Supervised:
        """Start a step. Raises StartFailed, GuardFailed."""
        await self._restart_if_ended()
        while True:
            control = self._idle.pop() if self._idle else await self._supervisor()
            self._steps += 1
            supervised = Supervised(control, self._steps, self._put_back, self._process)
            try:
                supervised.start(request)
                await asyncio.shield(supervised.started)
                return supervised
            except OSError:  # this supervisor was killed while idle
                await _abandon(supervised, 0)
            except BaseException:
                await _abandon(supervised, ABANDON_WITHIN)
                raise

    async def _restart_if_ended(self) -> None:
        if not self.running:
            log.warning("agent.guard_ended", exit_code=self._process.returncode)
            self._close_sockets()
            await asyncio.to_thread(self._launch)

    async def end_strays(self, mark: str, supervised: Supervised) -> None:
        """End the remaining processes of a step whose supervisor was killed, in case the guard was killed as well.

        A new guard ends the processes in control groups of the old one. Other processes of the step are found by
        `mark` (`NAME=value`) in their environment, and by their session. Raises GuardFailed.
        """
        await self._restart_if_ended()
        deadline = time.monotonic() + ABANDON_WITHIN
        while await asyncio.to_thread(kill_strays, mark.encode(), supervised.shell):
            if time.monotonic() > deadline:
                log.warning("agent.strays_left", mark=mark)
                return
            await asyncio.sleep(_STRAYS)

    async def _supervisor(self) -> socket.socket:
        """The connection to a new supervisor. Raises StartFailed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            while True:
                try:
                    socket.send_fds(self._socket, [b"supervisor"], [theirs.fileno()])
                    return ours
                except BlockingIOError:
                    await asyncio.sleep(_RETRY)
                except OSError as error:
                    ours.close()
                    raise StartFailed(error.errno or 0, "guard") from None

    def watch(self, pid: int) -> None:
        """Have a child of the agent, a session leader, killed with its process group if the agent dies."""
        self._send(b"watch %d" % pid)

    def forget(self, pid: int) -> None:
        """Stop watching a child, which has been reaped."""
        self._send(b"forget %d" % pid)

    def _send(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # without a guard the child is only bounded by its limits
            self._socket.send(packet)

    def _put_back(self, supervised: Supervised) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(supervised.control)
        else:
            supervised.control.close()

    def _close_sockets(self) -> None:
        for control in (self._socket, *self._idle):
            control.close()
        self._idle.clear()

    def close(self, timeout: float = 10.0) -> None:
        """Block until all processes have ended, for at most `timeout` seconds; the guard then continues alone."""
        self._close_sockets()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            log.warning("agent.guard_goes_on", pid=self.pid)


def _continue_if_stopped(pid: int) -> None:
    """Send SIGCONT to the guard whenever a step (of the same user) has stopped it, until the guard ends."""
    while True:
        try:
            found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_code != os.CLD_STOPPED:
            return
        os.kill(pid, signal.SIGCONT)


async def _abandon(supervised: Supervised, within: float) -> None:
    """Kill a step that did not start or is no longer awaited, and close its pipes."""
    supervised.kill(within)
    await asyncio.wait({supervised.gone}, timeout=within)
    supervised.close()
    for fd in (supervised.stdout, supervised.stderr):
        if fd >= 0:
            os.close(fd)
