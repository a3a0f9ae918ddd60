"""The agent's side of the guard (`reaping/`): starts it, has steps started by its supervisors, and follows each.

The guard is a process beside the agent. When the agent dies in whatever way, it ends everything that the agent's
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
MAX_IDLE = 16  # supervisors that wait for the next step
ABANDON_WITHIN = 3.0  # seconds to kill what is left when nobody waits for a step any more
_RETRY = 0.005  # seconds after which a guard that is busy is asked again
_STRAYS = 0.02  # seconds between two looks at what was left without a guard
_PROGRAM = Path(__file__).parent / "reaping" / "guarding.py"

log = structlog.get_logger("agent.guard")


class GuardFailed(Exception):
    """The guard process could not be started."""

    code = "GUARD_FAILED"


class StartFailed(Exception):
    """A step could not be started. `number` is the errno; `at` is `start`, `directory`, or `guard`, which is gone."""

    code = "START_FAILED"

    def __init__(self, number: int, at: str) -> None:
        super().__init__(os.strerror(number))
        self.number, self.at = number, at


class Supervised:
    """A step that runs, as its supervisor tells of it. All futures may be awaited any number of times.

    `stdout`, `stderr`: read ends of its pipes, the caller's to close. `exit_code`: how the shell ended, as shells
    count. `gone`: nothing that the step started is left. `left`: what could not be killed within the seconds given
    to `kill`. `broken`: the supervisor itself was killed; what the step had started is then ended by the guard.
    `unguarded`: the guard was killed, and so the supervisor has ended the step.
    `shell`: the pid of the step's shell, which leads a session; 0 until it has started.
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
        loop.add_reader(control.fileno(), self._hear)

    @property
    def unguarded(self) -> bool:
        return self._guard.poll() is not None

    def start(self, request: Request) -> None:
        """Raises OSError if there is no supervisor any more."""
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
        """SIGTERM to everything."""
        self._say({"terminate": True, "step": self.number})

    def kill(self, within: float) -> None:
        """SIGKILL to everything, until it is gone."""
        self._say({"kill": within, "step": self.number})

    def close(self) -> None:
        """Not interested any more: what is left is killed all the same."""
        if self.control.fileno() >= 0 and not self.gone.done():
            self._forget()
            self.control.close()

    def _forget(self) -> None:
        asyncio.get_running_loop().remove_reader(self.control.fileno())

    def _say(self, command: dict[str, Any]) -> None:
        if not self.gone.done():
            try:
                self.control.send(json.dumps(command).encode())
            except OSError:
                return  # it has ended, which reading will tell

    def _hear(self) -> None:
        """All there is to read: after an error some event loops look at a socket no more."""
        while not self.gone.done() and self.control.fileno() >= 0:
            try:
                packet = self.control.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended before it read our last word; what it said before is still to come
            except OSError:
                packet = b""
            if packet:
                self._understand(json.loads(packet))
            else:
                self._broke()

    def _understand(self, message: dict[str, Any]) -> None:
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

    def _broke(self) -> None:
        self.close()
        self.broken = True
        if not self.started.done():
            self.started.set_exception(StartFailed(0, "guard"))
        _settle(self.exit_code, 137)
        _settle(self.gone, None)


def _in_memory(request: Request) -> int:
    """A file of its own, since a request may be larger than a packet."""
    memory = os.memfd_create("request")
    with open(memory, "wb", closefd=False) as file:
        file.write(json.dumps(request._asdict()).encode())
    return memory


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


class Guard:
    """The guard of this agent.

    `backend` says how it kills: `cgroup2`, `cgroup1` or `subreaper`; `why`, what speaks against those before it.
    Starting blocks until it stands watch, some 50 ms. Raises GuardFailed.
    """

    def __init__(self, wanted: str = "") -> None:
        """`wanted`: this backend and no better one, for tests."""
        self._wanted = wanted
        self._idle: list[socket.socket] = []  # supervisors that have no step
        self._steps = 0
        self._launch()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A session of its own: signals to the agent's group, and Ctrl-C, do not reach it.
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
        threading.Thread(target=_keep_going, args=(self._process.pid,), daemon=True).start()
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
        await self._revive()
        while True:
            control = self._idle.pop() if self._idle else await self._supervisor()
            self._steps += 1
            supervised = Supervised(control, self._steps, self._put_back, self._process)
            try:
                supervised.start(request)
                await asyncio.shield(supervised.started)
                return supervised
            except OSError:  # this one was killed while it had nothing to do
                await _abandon(supervised, 0)
            except BaseException:
                await _abandon(supervised, ABANDON_WITHIN)
                raise

    async def _revive(self) -> None:
        if not self.running:
            log.warning("agent.guard_ended", exit_code=self._process.returncode)
            self._close_sockets()
            await asyncio.to_thread(self._launch)

    async def end_strays(self, mark: str, supervised: Supervised) -> None:
        """Of a step whose supervisor was killed: end what is left of it, in case the guard was killed, too.

        A new guard ends what is in control groups of the old one. Else what the step has started is known by
        `mark`, in its environment, and by its session. Raises GuardFailed.
        """
        await self._revive()
        deadline = time.monotonic() + ABANDON_WITHIN
        while await asyncio.to_thread(kill_strays, mark.encode(), supervised.shell):
            if time.monotonic() > deadline:
                log.warning("agent.strays_left", mark=mark)
                return
            await asyncio.sleep(_STRAYS)

    async def _supervisor(self) -> socket.socket:
        """A new one. Raises StartFailed."""
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
        """Have a child of the agent's own, which leads a session, killed with its group if the agent dies."""
        self._send(b"watch %d" % pid)

    def forget(self, pid: int) -> None:
        """The child has been waited for."""
        self._send(b"forget %d" % pid)

    def _send(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # without a guard such a child is bounded by its limits alone
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
        """Blocks until all is gone, `timeout` seconds at most: then the guard goes on by itself."""
        self._close_sockets()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            log.warning("agent.guard_goes_on", pid=self.pid)


def _keep_going(pid: int) -> None:
    """Until the guard has ended: a step of the agent's own user may stop it, and it goes on at once."""
    while True:
        try:
            found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_code != os.CLD_STOPPED:
            return
        os.kill(pid, signal.SIGCONT)


async def _abandon(supervised: Supervised, within: float) -> None:
    """It did not start, or nobody waits for it any more."""
    supervised.kill(within)
    await asyncio.wait({supervised.gone}, timeout=within)
    supervised.close()
    for fd in (supervised.stdout, supervised.stderr):
        if fd >= 0:
            os.close(fd)
