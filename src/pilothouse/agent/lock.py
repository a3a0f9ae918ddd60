"""One agent per data directory: a lock that the kernel releases when the agent ends."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pilothouse.agent.errors import DataDirInUse, SettingsRefused

_TRIES = 3  # `lock_holder` in another process takes the lock for a moment
_PAUSE = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class LockHolder:
    """`started_at`: Unix seconds."""

    pid: int
    agent_id: str
    started_at: float


def lock_path(data_dir: Path) -> Path:
    return data_dir / "agent.lock"


def lock_holder(data_dir: Path) -> LockHolder | None:
    """The running agent that uses this directory, if there is one."""
    try:
        file = os.open(lock_path(data_dir), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read(file)
    finally:
        os.close(file)


class AgentLock:
    """Holds the lock while in the context. Raises DataDirInUse, SettingsRefused."""

    def __init__(self, data_dir: Path, agent_id: str) -> None:
        self._data_dir = data_dir
        self._agent_id = agent_id
        self._file = -1

    def __enter__(self) -> Self:
        try:
            self._file = os.open(lock_path(self._data_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SettingsRefused(f"cannot use {self._data_dir}: {error.strerror}") from None
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        holder = LockHolder(os.getpid(), self._agent_id, time.time())
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(asdict(holder)).encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _take(self) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt < _TRIES:
                    time.sleep(_PAUSE)
        holder = _read(self._file)
        who = f"agent {holder.agent_id} (pid {holder.pid})" if holder else "another agent"
        raise DataDirInUse(f"{who} already works in {self._data_dir}; give this one another --data-dir")


def _read(file: int) -> LockHolder | None:
    try:
        return LockHolder(**json.loads(os.pread(file, 4096, 0)))
    except (ValueError, TypeError):
        return None  # it has the lock, but has not written yet
