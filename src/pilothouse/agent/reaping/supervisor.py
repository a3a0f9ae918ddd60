"""The supervisor: starts the shell of a step, and waits until all processes of the step have ended.

It is a child subreaper, so all processes of the step remain its descendants: without children, the step has ended. To
kill the step, it repeatedly kills its children; their children then become its own. A child keeps its pid until it is
reaped, so no pid can be reused meanwhile. A supervisor runs one step after another.

It communicates with the agent over `control`, in JSON packets; a `Request` is passed as a memory file. Commands:

    {"start": number} with three descriptors   request, stdout, stderr
    {"terminate": true, "step": number}        SIGTERM to all
    {"kill": seconds, "step": number}          SIGKILL to all; after so many seconds, report remaining processes

Messages: `{"started": pid}` or `{"failed": errno, "at": "start"|"directory"}`, `{"exited": code}` when the shell has
ended, `{"left": [texts]}`, and `{"gone": true}` at the end. If the agent or the guard ends, it kills the step and
ends.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import time
from typing import Any, NamedTuple

from pilothouse.agent.reaping import processes
from pilothouse.agent.reaping.groups import Group, Groups, NoGroup
from pilothouse.agent.reaping.packets import MAX_PACKET, receive

DESCRIPTORS = 3
MAX_LEFT = 20  # processes that are described
_SHORT, _LONG, _SLOW = 0.001, 0.05, 1.0  # seconds between checks for the end of killed processes


class Request(NamedTuple):
    """What to start. `user`: uid, gid and groups; empty: the supervisor's own."""

    argv: list[str]
    directory: str
    environment: dict[str, str]
    user: list[Any]


class Supervisor:
    def __init__(self, control: socket.socket, guard: int, groups: Groups) -> None:
        """`guard`: the read end of a pipe that is closed when the guard ends."""
        self._control, self._guard = control, guard
        self._group = _group(groups)
        self._wake = wakeups()
        self._orphaned = False  # the agent or the guard has ended
        self._step = 0
        self._shell = 0
        self._killing = False
        self._terminated: set[tuple[int, int]] | None = (
            None  # (pid, start time) of processes that got SIGTERM; None before it is sent
        )
        self._pause = _SHORT
        self._report_left_at: float | None = None

    def serve(self) -> None:
        """Serve until the agent or the guard has ended, and then until no process is left."""
        while not self._orphaned:
            self._listen(None)
            if self._shell:
                self._finish_step()
        self._group.remove()

    def _finish_step(self) -> None:
        while not self._ended():
            if self._killing:
                self._kill()
            elif self._terminated is not None:
                self._terminate_orphans()
            self._listen(self._poll_timeout() if self._killing else None)
        self._shell, self._killing, self._terminated, self._report_left_at = 0, False, None, None
        self._group.tidy()
        self._send({"gone": True})

    def _ended(self) -> bool:
        """Reap children; returns whether no process is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return not self._group.populated()
            if not pid:
                return False
            self._pause = _SHORT
            if pid == self._shell:
                code = os.waitstatus_to_exitcode(status)
                self._send({"exited": 128 - code if code < 0 else code})

    def _kill(self) -> None:
        self._group.kill()
        for pid in processes.children():
            processes.signal_to(pid, signal.SIGKILL)
        if self._report_left_at is not None and time.monotonic() >= self._report_left_at:
            self._report_left_at = None
            self._send({"left": self._left()})

    def _left(self) -> list[str]:
        found = {process.pid: process for process in processes.descendants()}
        for pid in self._group.pids():
            process = processes.look_up(pid)
            if process is not None:
                found[pid] = process
        return [processes.describe(process) for process in list(found.values())[:MAX_LEFT]]

    def _terminate(self) -> None:
        self._terminated = set()
        for process in processes.descendants():
            self._terminate_once(process, self._terminated)

    def _terminate_orphans(self) -> None:
        """Send SIGTERM to processes that were forked before their parent got the signal, once the parent has ended.
        Processes that a running parent starts meanwhile, to clean up, do not get it."""
        for process in map(processes.look_up, processes.children()):
            if process is not None and self._terminated is not None:
                self._terminate_once(process, self._terminated)

    def _terminate_once(self, process: processes.Process, done: set[tuple[int, int]]) -> None:
        if (process.pid, process.started) not in done:
            done.add((process.pid, process.started))
            processes.send(process, signal.SIGTERM)
            processes.send(process, signal.SIGCONT)  # a stopped process does not handle the signal otherwise

    # -- commands ---------------------------------------------------------------------------------------

    def _listen(self, timeout: float | None) -> None:
        """Wait for a command, the end of a child, or the timeout (seconds)."""
        poll = select.poll()
        for fd in (self._wake, self._control.fileno(), self._guard):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)]
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._guard >= 0 and self._guard in ready:  # nothing is written to the pipe: it was closed
            self._guard = -1
            self._killing = self._orphaned = True
        if self._control.fileno() >= 0 and self._control.fileno() in ready:
            self._handle_command()

    def _poll_timeout(self) -> float:
        self._pause = min(self._pause * 2, _LONG if self._report_left_at is not None else _SLOW)
        return self._pause

    def _handle_command(self) -> None:
        packet, fds = receive(self._control, DESCRIPTORS)
        if not packet:  # the agent has ended
            self._control.close()
            self._killing = self._orphaned = True
            return
        command = json.loads(packet)
        if "start" in command:
            self._step = command["start"]
            self._start(*fds)
        elif command["step"] != self._step or not self._shell:
            return  # the step has already ended
        elif "kill" in command:
            self._killing, self._pause = True, _SHORT
            self._report_left_at = time.monotonic() + float(command["kill"])
        else:
            self._terminate()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            return  # the agent has ended; the next read detects this

    # -- starting ---------------------------------------------------------------------------------------

    def _start(self, request: int, stdout: int, stderr: int) -> None:
        wanted = _read(request)
        try:
            self._shell = start(wanted, stdout, stderr, self._group)
            self._send({"started": self._shell})
        except OSError as error:
            at = "directory" if error.filename == wanted.directory else "start"
            self._send({"failed": error.errno or 0, "at": at})
        except ValueError:  # NUL in an argument or variable
            self._send({"failed": errno.EINVAL, "at": "start"})
        finally:
            os.close(stdout)
            os.close(stderr)


def start(request: Request, stdout: int, stderr: int, group: Group) -> int:
    """Start the program in its group and in a new session; returns its pid. Raises OSError."""
    user: dict[str, Any] = {}
    if request.user:
        user = dict(zip(("user", "group", "extra_groups"), request.user, strict=True))
    group.enter()  # children are in the group of their parent from the start
    try:
        process = subprocess.Popen(
            request.argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=request.directory,
            env=request.environment,
            start_new_session=True,
            **user,
        )
    finally:
        group.leave()
    process.returncode = 0  # it is reaped by the supervisor, not by Popen
    return process.pid


def _read(request: int) -> Request:
    with open(request, "rb") as file:
        file.seek(0)
        return Request(**json.loads(file.read()))


def _group(groups: Groups) -> Group:
    try:
        return groups.step(str(os.getpid()))
    except OSError:  # for example a limit on the number of groups: steps run without
        return NoGroup()


def wakeups() -> int:
    """The read end of a pipe that becomes readable when a child has ended."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.signal(signal.SIGCHLD, do_nothing)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


def do_nothing(*_: object) -> None:
    """A signal handler. Unlike an ignored signal, a caught signal has its default action in started programs."""


__all__ = ["MAX_PACKET", "Request", "Supervisor", "do_nothing", "start", "wakeups"]
