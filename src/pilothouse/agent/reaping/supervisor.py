"""The supervisor: starts the shell of a step, and is done with it only when nothing of the step is left.

It is a child subreaper, so what the step starts remains below it: no children means that the step has ended in
whole. To kill, it kills its children, again and again; theirs become its own by that. No pid can be another's
meanwhile, for a child keeps its pid until it is waited for. It serves one step after another.

It talks with the agent over `control`, in packets of JSON; a `Request` comes in a file in memory. It obeys

    {"start": number} with three descriptors   request, stdout, stderr
    {"terminate": true, "step": number}        SIGTERM to all
    {"kill": seconds, "step": number}          SIGKILL to all, and say after so many seconds what is left

and says `{"started": pid}` or `{"failed": errno, "at": "start"|"directory"}`, `{"exited": code}` when the shell has
ended, `{"left": [texts]}`, and `{"gone": true}` at the end. When the agent or the guard is gone, it kills and ends.
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
MAX_LEFT = 20  # processes that are named
_SHORT, _LONG, _SLOW = 0.001, 0.05, 1.0  # seconds between two looks whether the killed are gone


class Request(NamedTuple):
    """What to start. `user`: uid, gid and groups to become; empty: the supervisor's own."""

    argv: list[str]
    directory: str
    environment: dict[str, str]
    user: list[Any]


class Supervisor:
    def __init__(self, control: socket.socket, guard: int, groups: Groups) -> None:
        """`guard`: the end of a pipe that closes when the guard is gone."""
        self._control, self._guard = control, guard
        self._group = _group(groups)
        self._wake = wakeups()
        self._deserted = False  # by agent or guard
        self._step = 0
        self._shell = 0
        self._killing = False
        self._told: set[tuple[int, int]] | None = (
            None  # pid and start of what has had its SIGTERM, once it is sent
        )
        self._pause = _SHORT
        self._tell_at: float | None = None

    def serve(self) -> None:
        """Until the agent or the guard is gone, and then until nothing is left."""
        while not self._deserted:
            self._listen(None)
            if self._shell:
                self._see_to_its_end()
        self._group.remove()

    def _see_to_its_end(self) -> None:
        while not self._ended():
            if self._killing:
                self._kill()
            elif self._told is not None:
                self._terminate_orphans()
            self._listen(self._patience() if self._killing else None)
        self._shell, self._killing, self._told, self._tell_at = 0, False, None, None
        self._group.tidy()
        self._say({"gone": True})

    def _ended(self) -> bool:
        """Waits for whom it can; whether nothing is left."""
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
                self._say({"exited": 128 - code if code < 0 else code})

    def _kill(self) -> None:
        self._group.kill()
        for pid in processes.children():
            processes.signal_to(pid, signal.SIGKILL)
        if self._tell_at is not None and time.monotonic() >= self._tell_at:
            self._tell_at = None
            self._say({"left": self._left()})

    def _left(self) -> list[str]:
        found = {process.pid: process for process in processes.descendants()}
        for pid in self._group.pids():
            process = processes.look_up(pid)
            if process is not None:
                found[pid] = process
        return [processes.describe(process) for process in list(found.values())[:MAX_LEFT]]

    def _terminate(self) -> None:
        self._told = set()
        for process in processes.descendants():
            self._tell(process, self._told)

    def _terminate_orphans(self) -> None:
        """What was forked between our look and the signal is told when its parent has died of that; what a parent
        that lives has started meanwhile, to clean up, is not."""
        for process in map(processes.look_up, processes.children()):
            if process is not None and self._told is not None:
                self._tell(process, self._told)

    def _tell(self, process: processes.Process, told: set[tuple[int, int]]) -> None:
        if (process.pid, process.started) not in told:
            told.add((process.pid, process.started))
            processes.send(process, signal.SIGTERM)
            processes.send(process, signal.SIGCONT)  # a stopped process would not notice

    # -- what it hears ----------------------------------------------------------------------------------

    def _listen(self, patience: float | None) -> None:
        """Until there is something to do: a command, a death, the next look at what was killed."""
        poll = select.poll()
        for fd in (self._wake, self._control.fileno(), self._guard):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if patience is None else patience * 1000)]
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._guard >= 0 and self._guard in ready:  # nobody ever writes there: it is closed
            self._guard = -1
            self._killing = self._deserted = True
        if self._control.fileno() >= 0 and self._control.fileno() in ready:
            self._obey()

    def _patience(self) -> float:
        self._pause = min(self._pause * 2, _LONG if self._tell_at is not None else _SLOW)
        return self._pause

    def _obey(self) -> None:
        packet, fds = receive(self._control, DESCRIPTORS)
        if not packet:  # the agent is gone
            self._control.close()
            self._killing = self._deserted = True
            return
        command = json.loads(packet)
        if "start" in command:
            self._step = command["start"]
            self._start(*fds)
        elif command["step"] != self._step or not self._shell:
            return  # its step has ended meanwhile
        elif "kill" in command:
            self._killing, self._pause = True, _SHORT
            self._tell_at = time.monotonic() + float(command["kill"])
        else:
            self._terminate()

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            return  # the agent is gone, which reading will tell

    # -- starting ---------------------------------------------------------------------------------------

    def _start(self, request: int, stdout: int, stderr: int) -> None:
        wanted = _read(request)
        try:
            self._shell = start(wanted, stdout, stderr, self._group)
            self._say({"started": self._shell})
        except OSError as error:
            at = "directory" if error.filename == wanted.directory else "start"
            self._say({"failed": error.errno or 0, "at": at})
        except ValueError:  # NUL in an argument or variable, of which no program can be told
            self._say({"failed": errno.EINVAL, "at": "start"})
        finally:
            os.close(stdout)
            os.close(stderr)


def start(request: Request, stdout: int, stderr: int, group: Group) -> int:
    """Start the program in its group, in a session of its own; gives its pid. Raises OSError."""
    user: dict[str, Any] = {}
    if request.user:
        user = dict(zip(("user", "group", "extra_groups"), request.user, strict=True))
    group.enter()  # who is in it when it forks has its children in it, from their first moment on
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
    process.returncode = 0  # it is waited for here, not there
    return process.pid


def _read(request: int) -> Request:
    with open(request, "rb") as file:
        file.seek(0)
        return Request(**json.loads(file.read()))


def _group(groups: Groups) -> Group:
    try:
        return groups.step(str(os.getpid()))
    except OSError:  # the machine has no more of them, say: its steps go without
        return NoGroup()


def wakeups() -> int:
    """The end of a pipe that is readable whenever a child has ended."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.signal(signal.SIGCHLD, do_nothing)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


def do_nothing(*_: object) -> None:
    """For signals. What is caught is not ignored: a program that is started has the default again."""


__all__ = ["MAX_PACKET", "Request", "Supervisor", "do_nothing", "start", "wakeups"]
