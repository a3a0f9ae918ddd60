"""Processes that no signal ends, for as long as a test wants: frozen in a control group of version 1."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.waiting import PATIENCE

FREEZER = Path("/sys/fs/cgroup/freezer")
Freezer = Callable[[int], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that takes no signal, as one does that waits for a device."""
    directory = FREEZER / f"pilot-test-{pid}"
    directory.mkdir()
    try:
        (directory / "cgroup.procs").write_text(str(pid))
        (directory / "freezer.state").write_text("FROZEN")
        yield
    finally:
        (directory / "freezer.state").write_text("THAWED")
        with contextlib.suppress(OSError):  # dead by now if it was killed
            (FREEZER / "cgroup.procs").write_text(str(pid))
        _remove(directory)


def _remove(directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            directory.rmdir()
            return
        except OSError:  # the last one is still on its way out
            assert time.monotonic() < deadline, f"{directory} is in use"
            time.sleep(0.01)


@pytest.fixture
def freezer() -> Freezer:
    if os.geteuid() or not FREEZER.is_dir():
        pytest.skip("making a process that cannot be killed needs root, and the freezer of version 1")
    return frozen
