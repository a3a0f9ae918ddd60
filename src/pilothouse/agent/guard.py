"""Ending processes as a family, and the guard that does so when the agent itself is gone.

Whatever a step starts carries the agent's cookie in its environment (`PILOT_GUARD=<cookie>`), wherever it
went by double fork and setsid. A family is: the processes that carry all given marks, everything in their
sessions and process groups, and all descendants. (What clears its environment, leaves its session and loses
its parent, all three, is found only while one of these still holds.)

`Guard` starts this very file once per agent as a process of its own, with one end of a pipe as its stdin.
When the agent dies in any way the pipe closes, and the guard kills every family with the cookie. It runs
with `-I -S`: standard library only, nothing of ours. Linux only: it reads /proc.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

COOKIE_VARIABLE = "PILOT_GUARD"
KERNEL_THREAD = 0x00200000  # PF_KTHREAD
UNSTEADY_LOOKS = 3  # how often to look again, finding none, while processes come and go
READY = b"."
AFTERMATH = 0.3  # seconds after which the guard looks once more: a step may have been about to start


class Process(NamedTuple):
    pid: int
    parent: int
    group: int
    session: int
    started: int  # clock ticks since boot; with the pid it names a process for good


class Marks(NamedTuple):
    """What a family is known by."""

    environment: tuple[bytes, ...]  # b"NAME=value", all of which a member carries
    session: int = 0  # and everything in this session, if not 0
    since: int = 0  # no member started earlier (`Process.started`)


def look_up(pid: int) -> Process | None:
    """The process, unless it is gone, a zombie or a thread of the kernel."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    dead = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1  # with more threads, only its first has ended
    if dead or int(fields[6]) & KERNEL_THREAD:
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def start_of(pid: int) -> int:
    """When this process started, zombie or not, for `Marks.since`. Raises OSError if there is none."""
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    # The name of the program, in parentheses, may itself contain spaces and parentheses.
    return stat[stat.rindex(b")") + 2 :].split()


def group_alive(group: int) -> bool:
    """Whether anything but zombies is left in the process group."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return any(process.group == group for process in map(look_up, pids) if process)


def find_family(marks: Marks) -> tuple[list[Process], bool]:
    """The living members, and whether that is certain: False if some process came or went meanwhile."""
    found: list[Process] = []
    others: list[Process] = []
    certain = True
    own_session = os.getsid(0)
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        process = look_up(int(name))
        if process is None:
            certain = certain and os.path.exists(f"/proc/{name}")
            continue
        if process.started < marks.since or process.session == own_session:
            continue
        marked = _carries(process.pid, marks.environment)
        certain = certain and marked is not None
        if marked or (marks.session and process.session == marks.session):
            found.append(process)
        else:
            others.append(process)
    return _with_relatives(found, others), certain


def _carries(pid: int, marks: tuple[bytes, ...]) -> bool | None:
    """None: cannot be told now; the process is gone, or between two programs and has no environment yet."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except PermissionError:
        return False
    except OSError:
        return None
    if not environment:
        return None
    return set(environment.split(b"\0")).issuperset(marks)


def _with_relatives(family: list[Process], others: list[Process]) -> list[Process]:
    while True:
        pids = {process.pid for process in family}
        groups = {process.group for process in family} - {0}
        sessions = {process.session for process in family} - {0}
        newcomers = {
            process
            for process in others
            if process.parent in pids or process.group in groups or process.session in sessions
        }
        if not newcomers:
            return family
        family = [*family, *newcomers]
        others = [process for process in others if process not in newcomers]


def kill_family(marks: Marks, within: float) -> list[int]:
    """SIGKILL every member until none is left, for at most `within` seconds. Returns the pids that remain.

    Processes that may not be killed (of another user) are among those. Blocks; call it in a thread.
    """
    deadline = time.monotonic() + within
    untouchable: set[int] = set()
    pause, uncertain_looks = 0.002, 0
    while True:
        members, certain = find_family(marks)
        members = [process for process in members if process.pid not in untouchable]
        for process in members:
            if not _kill(process):
                untouchable.add(process.pid)
        if not members:
            uncertain_looks += 1
            if certain or uncertain_looks > UNSTEADY_LOOKS:
                return sorted(untouchable)
        if time.monotonic() > deadline:
            return sorted(untouchable.union(process.pid for process in members))
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _kill(process: Process) -> bool:
    """False: it may not be killed."""
    now = look_up(process.pid)
    if now is None or now.started != process.started:
        return True  # gone, and the pid perhaps given to another
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def new_cookie() -> str:
    return os.urandom(16).hex()


class GuardFailed(Exception):
    """The guard process could not be started."""

    code = "GUARD_FAILED"


class Guard:
    """The guard process of this agent. `close` ends it, and with it whatever still carries the cookie.

    Starting blocks until it stands watch, some 20 ms. Raises GuardFailed.
    """

    def __init__(self, cookie: str) -> None:
        self.cookie = cookie
        # A session of its own: signals to the agent's group, and Ctrl-C, do not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, cookie],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as said:
            if not said.read(1):
                raise GuardFailed(f"the guard ended with exit code {self._process.wait()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def close(self, timeout: float = 10.0) -> None:
        """Blocks up to `timeout` seconds until all is gone; raises subprocess.TimeoutExpired after that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout)


def watch(cookie: str, within: float = 60.0) -> None:
    """The guard process: wait for the end of the agent, then kill."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    marks = Marks((f"{COOKIE_VARIABLE}={cookie}".encode(),), since=start_of(os.getpid()))
    os.write(1, READY)
    os.close(1)
    while os.read(0, 1024):
        pass
    kill_family(marks, within)
    time.sleep(AFTERMATH)
    kill_family(marks, within)


if __name__ == "__main__":
    watch(sys.argv[1])
