"""A lock on the data directory, which one server can hold. The kernel releases it when the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class DataDirLocked(Exception):
    """Another server uses this data directory."""


def lock_holder(data_dir: Path) -> int | None:
    """The process id of the server that uses this data directory, None without one; 0 if it is unknown."""
    try:
        with (data_dir / "server.lock").open() as file:
            number = file.read(20).strip()
            if number.isdigit() and not Path("/proc", number).exists():
                return (
                    None  # checking the lock would hold it for a moment, in which a server may try to take it
                )
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int(number) if number.isdigit() else 0


@contextlib.contextmanager
def data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Hold ``server.lock``. Raises :class:`DataDirLocked`, naming the process that holds it."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / "server.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise DataDirLocked(f"another server (process {holder}) works on {data_dir}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
