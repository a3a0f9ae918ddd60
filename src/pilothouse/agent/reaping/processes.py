"""Reads /proc, and makes the few system calls that Python does not provide."""

from __future__ import annotations

import ctypes
import os
import pwd
from typing import NamedTuple

KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_STATES = {"D": "waits in the kernel", "T": "stopped", "t": "traced"}

_libc = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    pid: int
    parent: int
    name: str
    state: str
    started: int  # clock ticks since boot; together with the pid it identifies a process uniquely


def become_subreaper(name: str) -> None:
    """Make orphaned descendants of this process its children. `name`: shown by `ps`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def look_up(pid: int) -> Process | None:
    """The process, unless it has ended, is a zombie or a kernel thread."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    # The name of the program, in parentheses, may itself contain spaces and parentheses.
    name, fields = stat[stat.index(b"(") + 1 : stat.rindex(b")")], stat[stat.rindex(b")") + 2 :].split()
    dead = (
        fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    )  # with further threads, only the first has ended
    if dead or int(fields[6]) & KERNEL_THREAD:
        return None
    return Process(pid, int(fields[1]), name.decode(errors="replace"), fields[0].decode(), int(fields[19]))


def children() -> list[int]:
    """The pids of this process's children, including zombies. The process must have a single thread.

    The kernel may omit some while children start and end: repeat until there are none.
    """
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [process.pid for process in everything() if process.parent == own]


def descendants() -> list[Process]:
    """All running descendants of this process, from one scan of /proc."""
    by_parent: dict[int, list[Process]] = {}
    for process in everything():
        by_parent.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    parents = [os.getpid()]
    while parents:
        mine = by_parent.pop(parents.pop(), [])
        found += mine
        parents += [process.pid for process in mine]
    return found


def everything() -> list[Process]:
    """All visible processes."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in map(look_up, pids) if process is not None]


def send(process: Process, number: int) -> None:
    """Send a signal, unless the process has ended (its pid may be reused) or belongs to another user."""
    now = look_up(process.pid)
    if now is not None and now.started == process.started:
        signal_to(process.pid, number)


def send_group(leader: Process, number: int) -> None:
    """Send a signal to the group that this process leads, unless it has ended or belongs to another user."""
    now = look_up(leader.pid)
    if now is not None and now.started == leader.started:
        try:
            os.killpg(leader.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def signal_to(pid: int, number: int) -> None:
    """Send a signal to a child that was not reaped, so its pid cannot be reused."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def describe(process: Process) -> str:
    """A description for messages: `4711 (dd, waits in the kernel)`, `4712 (sleep, user root)`."""
    words = [process.name]
    if process.state in _STATES:
        words.append(_STATES[process.state])
    try:
        owner = os.stat(f"/proc/{process.pid}").st_uid
    except OSError:
        owner = os.geteuid()
    if owner != os.geteuid():
        words.append(f"user {_name_of(owner)}")
    return f"{process.pid} ({', '.join(words)})"


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
