"""What a step has left that has neither supervisor nor guard any more, because both were killed."""

from __future__ import annotations

import os
import signal

from pilothouse.agent.reaping import processes


def kill_strays(mark: bytes, session: int) -> int:
    """SIGKILL to what has `mark`, `NAME=value`, in its environment, and to all of this session; how many there were.

    One that has cleared its environment and left the session is not found.
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
