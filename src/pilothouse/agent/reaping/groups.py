"""Control groups of steps: the protocol of the two kinds, and their common parts.

Each agent has a directory `pilot-agent-…` below its own group, with a group for each step. The guard and its
supervisors hold a lock on that directory. An unlocked directory is left from an agent that was killed together with
its guard; the next agent that starts there kills its processes and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PREFIX = "pilot-agent-"
REMOVE_WITHIN = 1.0  # seconds
_PAUSE = 0.005  # seconds


class Group(Protocol):
    """The control group of one step. All methods may block briefly; only `enter` and `leave` raise."""

    def enter(self) -> None:
        """Move the calling process into the group. Raises OSError."""

    def leave(self) -> None:
        """Move the calling process out of the group. Raises OSError."""

    def kill(self) -> None:
        """Send SIGKILL to all processes in the group and its subgroups, so that no fork escapes."""

    def populated(self) -> bool:
        """Whether the group or a subgroup has processes."""

    def pids(self) -> list[int]: ...

    def tidy(self) -> None:
        """Remove the subgroups."""

    def remove(self) -> None:
        """Remove the group and its subgroups, except those that still have processes."""


class NoGroup:
    """Used without control groups: the supervisor ends the processes itself."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def kill(self) -> None: ...
    def populated(self) -> bool:
        return False

    def pids(self) -> list[int]:
        return []

    def tidy(self) -> None: ...
    def remove(self) -> None: ...


@dataclass(frozen=True)
class FileSystem:
    """Creates and removes directories; replaced in tests."""

    make: Callable[[Path], None] = os.mkdir
    remove: Callable[[Path], None] = os.rmdir


class Groups:
    """The groups of one agent's steps; without `parent` and `kind` there are none, and `step` returns a `NoGroup`."""

    def __init__(
        self,
        backend: str,
        parent: Path | None = None,
        kind: Callable[[Path, FileSystem], Group] | None = None,
        needs: str = "",
        files: FileSystem = FileSystem(),
    ) -> None:
        """`parent`: where the agent's directory is created; `needs`: a control file that is required."""
        self.backend = backend
        self._parent, self._kind, self._needs, self._files = parent, kind, needs, files
        self._own: Path | None = None
        self._lock = -1

    def open(self) -> None:
        """Create the agent's directory and check that it can hold processes. Raises OSError."""
        if self._parent is None or self._kind is None:
            return
        self._own = self._claim(self._parent)
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def _claim(self, parent: Path) -> Path:
        while True:
            own = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
            self._files.make(own)
            self._lock = os.open(own, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if own.exists():  # otherwise another agent has removed it before it was locked
                return own
            os.close(self._lock)

    def _probe(self) -> None:
        group = self.step("probe")
        try:
            if self._own is not None and not (self._own / "probe" / self._needs).exists():
                raise OSError(errno.EOPNOTSUPP, f"no {self._needs}")
            pid = os.fork()
            if not pid:
                try:
                    group.enter()
                    os._exit(0)
                except BaseException as error:
                    os._exit(getattr(error, "errno", None) or errno.EIO)
            number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if number:
                raise OSError(number, os.strerror(number))
        finally:
            group.remove()

    def step(self, name: str) -> Group:
        """A new group. Raises OSError."""
        if self._own is None or self._kind is None:
            return NoGroup()
        self._files.make(self._own / name)
        return self._kind(self._own / name, self._files)

    def clear(self, name: str) -> None:
        """Remove the group of a supervisor that has ended without removing it."""
        if self._own is not None and self._kind is not None and (self._own / name).is_dir():
            _end(self._kind(self._own / name, self._files), 0.0)

    def close(self) -> None:
        """Kill all remaining processes and remove all groups."""
        if self._own is not None and self._kind is not None:
            _end(self._kind(self._own, self._files), REMOVE_WITHIN)
            os.close(self._lock)
            self._own = None

    def sweep(self) -> None:
        """Kill the processes and remove the groups of agents that were killed together with their guards."""
        if self._parent is None or self._kind is None:
            return
        for entry in self._parent.glob(f"{PREFIX}*"):
            if entry != self._own and entry.is_dir():
                self._sweep_one(entry, self._kind)

    def _sweep_one(self, directory: Path, kind: Callable[[Path, FileSystem], Group]) -> None:
        try:
            lock = os.open(directory, os.O_RDONLY)
        except OSError:
            return  # belongs to another user, or is gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _end(kind(directory, self._files), REMOVE_WITHIN)
        except OSError:
            return  # in use by a running agent, or belongs to another user
        finally:
            os.close(lock)


def _end(group: Group, within: float) -> None:
    deadline = time.monotonic() + within
    group.kill()
    while group.populated() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        group.kill()
    group.remove()


class Directory:
    """Base class of both kinds of groups: a directory with `cgroup.procs`."""

    def __init__(self, directory: Path, files: FileSystem) -> None:
        self._directory, self._files = directory, files

    def enter(self) -> None:
        _write(self._directory / "cgroup.procs", b"0")

    def leave(self) -> None:
        _write(self._directory.parent / "cgroup.procs", b"0")

    def pids(self) -> list[int]:
        pids: list[int] = []
        for path in self.tree():
            try:
                pids += map(int, (path / "cgroup.procs").read_text().split())
            except OSError:
                continue
        return pids

    def tree(self) -> list[Path]:
        """The directory and all subdirectories, the deepest first."""
        return [Path(path) for path, _, _ in os.walk(self._directory, topdown=False)] or [self._directory]

    def tidy(self) -> None:
        if os.stat(self._directory).st_nlink > 2:  # it has subdirectories
            self._remove(self.tree()[:-1])

    def remove(self) -> None:
        self._remove(self.tree())

    def _remove(self, directories: list[Path]) -> None:
        deadline = time.monotonic() + 0.1  # the last process may still be exiting
        for path in directories:
            while True:
                try:
                    self._files.remove(path)
                except FileNotFoundError:
                    pass
                except OSError:
                    if time.monotonic() < deadline:
                        time.sleep(_PAUSE)
                        continue
                break


def _write(path: Path, data: bytes) -> None:
    """Write to an existing file. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def set_value(path: Path, value: str) -> None:
    """Write to a control file; does nothing if the group is gone."""
    with contextlib.suppress(OSError):
        _write(path, value.encode())
