"""Kills the remaining processes of a step whose supervisor and guard were both killed."""

from __future__ import annotations

import os
import signal

from pilothouse.agent.reaping import processes


def kill_strays(mark: bytes, session: int) -> int:
    """Kill processes with `mark` (`NAME=value`) in their environment or in this session; returns their number.

    A process that has cleared its environment and left the session is not found.
    """
    found = 0
    for process in processes.everything():
        if process.pid != os.getpid() and (_in_session(process.pid, session) or _marked(process.pid, mark)):
            found += 1
            processes.send(process, signal.SIGKILL)
    return found


def _in_session(pid: int, session: int) -> bool:
    try:
        return session > 0 and os.getsid(pid) == session
    except OSError:
        return False


def _marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False
