"""Jobs for the tests of the worker pool. They import nothing heavy: every worker imports this file."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from typing import Any


def add(first: int, second: int) -> int:
    return first + second


def echo(value: Any) -> Any:
    return value


def both(count: int) -> tuple[dict[str, Any], bytes]:
    return {"count": count, "names": ["ä", None, 1.5, True]}, bytes(count)


def join(first: bytes, second: bytes) -> bytes:
    return first + second


def gate(fifo: str) -> int:
    """Runs until the named pipe has been opened for writing and closed. Returns the worker's process id."""
    with open(fifo, "rb") as file:
        file.read()
    return os.getpid()


def worker_pid() -> int:
    return os.getpid()


def burn_python() -> None:
    while True:
        pass


def burn_c() -> None:
    """Computes for ever within one call of C code, which holds the interpreter's lock."""
    re.match(r"(a+)+$", "a" * 200 + "b")


def burn_for(seconds: float) -> float:
    """Uses so much CPU time, and gives the worker's CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return time.process_time()


def hog(size: int) -> int:
    return len(bytearray(size))


def hog_pieces() -> int:
    pieces = []
    while True:
        pieces.append([None] * 1000)


_KEPT: list[bytes] = []


def leak(size: int) -> int:
    _KEPT.append(bytes(size))
    return os.getpid()


def crash(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def raise_with(text: str) -> None:
    raise ValueError(text)


def exit_with(text: str) -> None:
    raise SystemExit(text)


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1)


def unplain() -> object:
    return object()


def write_nonsense(data: bytes) -> None:
    """What a worker could send that is not what it seems."""
    os.write(0, data)
    time.sleep(60)


def surroundings() -> dict[str, Any]:
    """What a worker has around it."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one with which the directory was listed
    with open("/proc/self/oom_score_adj") as file:
        first_to_go = int(file.read())
    return {
        "environment": dict(os.environ),
        "descriptors": descriptors,
        "directory": os.getcwd(),
        "session": os.getsid(0),
        "pid": os.getpid(),
        "ignored": [signal.getsignal(each) is signal.SIG_IGN for each in (signal.SIGINT, signal.SIGTERM)],
        "processes": resource.getrlimit(resource.RLIMIT_NPROC),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "oom_score": first_to_go,
    }


def write_to(path: str) -> str:
    """The name of the error, if any, of writing to a file."""
    try:
        with open(path, "w") as file:
            file.write("x")
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


NOT_A_FUNCTION_AT_THE_TOP = lambda: None  # noqa: E731
