"""Errors of jobs. Each has a stable code; no message holds any of the job's input."""

from __future__ import annotations


class WorkError(Exception):
    """Base class: the job has no result."""

    code = "WORK_FAILED"


class QueueFull(WorkError):
    """The job was not accepted. ``bound`` is ``caller`` (this caller has too many jobs waiting) or ``total``."""

    code = "QUEUE_FULL"

    def __init__(self, bound: str, waiting: int) -> None:
        whose = "of this caller" if bound == "caller" else "of all callers"
        super().__init__(f"too many jobs {whose} are waiting ({waiting})")
        self.bound = bound


class Abandoned(WorkError):
    """Nobody waits for the result any more, and the job had not begun."""

    code = "ABANDONED"

    def __init__(self) -> None:
        super().__init__("its client has gone")


class TooLarge(WorkError):
    """The arguments or the result are too large, or their JSON part is."""

    code = "WORK_TOO_LARGE"


class NotPlainData(WorkError):
    """The arguments or the result are neither JSON data nor bytes."""

    code = "NOT_PLAIN_DATA"


class TimedOut(WorkError):
    """The job took too long and its worker was killed. ``limit`` is ``cpu`` or ``wall``."""

    code = "WORK_TIMED_OUT"

    def __init__(self, limit: str, seconds: float) -> None:
        kind = "CPU time" if limit == "cpu" else "time"
        super().__init__(f"the job took more than {seconds:g} s of {kind}")
        self.limit = limit


class OutOfMemory(WorkError):
    """The job needed more memory than its limit (``limit`` is ``job``), or the worker was killed by SIGKILL, as the
    kernel does where the system's memory runs out (``system``)."""

    code = "WORK_OUT_OF_MEMORY"

    def __init__(self, limit: str) -> None:
        super().__init__(
            "the job needed more memory than it may use"
            if limit == "job"
            else "the worker was killed by the system, which may be short of memory"
        )
        self.limit = limit


class Crashed(WorkError):
    """The worker ended, or broke the protocol, before the job had a result. Native code may crash when it
    gets no memory."""

    code = "WORKER_CRASHED"


class JobRaised(WorkError):
    """The job raised an exception: its type's ``name``, and ``where``. Its text stays in the worker, since it may
    quote the input."""

    code = "JOB_RAISED"

    def __init__(self, name: str, where: str) -> None:
        super().__init__(f"the job raised {name} at {where}")
        self.name, self.where = name, where


class PoolClosed(WorkError):
    """The pool was closed before the job had a result."""

    code = "POOL_CLOSED"
