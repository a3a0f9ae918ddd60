"""Control groups of steps: the protocol of the two kinds, what they share, and which one this machine offers.

Of one agent: a directory `pilot-agent-…` below the group the agent itself is in, and in it a group for each
step. The guard and its supervisors hold a lock on that directory; one that nobody has locked is left over from
an agent that was killed together with its guard, and is ended and removed by the next to start there.
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
    """The control group of one step. All methods may block for a moment; only `enter` raises."""

    def enter(self) -> None:
        """Put the calling process in. Raises OSError."""

    def leave(self) -> None:
        """Put the calling process beside it again. Raises OSError."""

    def kill(self) -> None:
        """SIGKILL all that is in it or below it, at once, so that nothing can fork its way out."""

    def populated(self) -> bool:
        """Whether anything lives in it or below it."""

    def pids(self) -> list[int]: ...

    def tidy(self) -> None:
        """Remove the groups that were made below it."""

    def remove(self) -> None:
        """With the groups that were made below it; what still has processes stays."""


class NoGroup:
    """Where there are no control groups: the supervisor's own means must do."""

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
    """How directories are made and removed; tests put a kernel of their own here."""

    make: Callable[[Path], None] = os.mkdir
    remove: Callable[[Path], None] = os.rmdir


class Groups:
    """The groups of one agent's steps; without `parent` and `kind` there are none, and `step` gives a `NoGroup`."""

    def __init__(
        self,
        backend: str,
        parent: Path | None = None,
        kind: Callable[[Path, FileSystem], Group] | None = None,
        needs: str = "",
        files: FileSystem = FileSystem(),
    ) -> None:
        """`parent`: where the agent's directory is made; `needs`: a file without which groups cannot be killed."""
        self.backend = backend
        self._parent, self._kind, self._needs, self._files = parent, kind, needs, files
        self._own: Path | None = None
        self._lock = -1

    def open(self) -> None:
        """Make the agent's own directory, and see that a process can be put below it. Raises OSError."""
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
            if own.exists():  # else another agent has taken it for a leftover before the lock was there
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
        """A supervisor has ended: what it could not remove, killed by its own step perhaps, goes now."""
        if self._own is not None and self._kind is not None and (self._own / name).is_dir():
            _end(self._kind(self._own / name, self._files), 0.0)

    def close(self) -> None:
        """All of it goes, with what still lives in it."""
        if self._own is not None and self._kind is not None:
            _end(self._kind(self._own, self._files), REMOVE_WITHIN)
            os.close(self._lock)
            self._own = None

    def sweep(self) -> None:
        """End and remove what agents have left that were killed with their guards."""
        if self._parent is None or self._kind is None:
            return
        for entry in self._parent.glob(f"{PREFIX}*"):
            if entry != self._own and entry.is_dir():
                self._sweep_one(entry, self._kind)

    def _sweep_one(self, directory: Path, kind: Callable[[Path, FileSystem], Group]) -> None:
        try:
            lock = os.open(directory, os.O_RDONLY)
        except OSError:
            return  # of another user, or gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _end(kind(directory, self._files), REMOVE_WITHIN)
        except OSError:
            return  # somebody lives there, or it is not ours to end
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
    """What the two kinds of groups have in common: a directory with `cgroup.procs`."""

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
        """The directory and all below it, the deepest first."""
        return [Path(path) for path, _, _ in os.walk(self._directory, topdown=False)] or [self._directory]

    def tidy(self) -> None:
        if os.stat(self._directory).st_nlink > 2:  # there are directories in it
            self._remove(self.tree()[:-1])

    def remove(self) -> None:
        self._remove(self.tree())

    def _remove(self, directories: list[Path]) -> None:
        deadline = time.monotonic() + 0.1  # the last process may still be on its way out
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
    """To a file that is there. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def set_value(path: Path, value: str) -> None:
    """Write to a control file; one that is gone is none."""
    with contextlib.suppress(OSError):
        _write(path, value.encode())
