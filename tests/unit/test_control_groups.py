"""Control groups against an imitated file system, for machines whose kernel offers none or hands none over.

A thread plays the kernel: it keeps `cgroup.events`, obeys `cgroup.kill` and `freezer.state`, and kills real processes.
What a real kernel does is tested in `tests/integration/test_reaping.py`, where there is one that does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.agent.reaping import cgroup1
from pilothouse.agent.reaping.cgroup1 import Cgroup1
from pilothouse.agent.reaping.cgroup2 import Cgroup2
from pilothouse.agent.reaping.groups import PREFIX, FileSystem, Groups
from support.waiting import PATIENCE


class Kernel:
    """The files of a hierarchy below `root`, and the thread that makes them mean something."""

    def __init__(self, root: Path, version: int) -> None:
        self.root, self.version = root, version
        self.killed: list[str] = []
        self._stop = threading.Event()
        self.files = FileSystem(self.make, self.remove)
        self.make(root)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def make(self, directory: Path) -> None:
        directory.mkdir()
        for name in ("cgroup.procs", *(("cgroup.kill", "cgroup.events") if self.version == 2 else ())):
            (directory / name).write_text("")
        if self.version == 1:
            (directory / "freezer.state").write_text("THAWED")

    def remove(self, directory: Path) -> None:
        if self.living(directory) or any(path.is_dir() for path in directory.iterdir()):
            raise OSError(16, "Device or resource busy")
        shutil.rmtree(directory)

    def put(self, pid: int, directory: Path) -> None:
        with (directory / "cgroup.procs").open("a") as file:
            file.write(f"{pid}\n")

    def living(self, directory: Path) -> list[int]:
        pids = []
        for path in directory.rglob("cgroup.procs"):
            with contextlib.suppress(FileNotFoundError):
                pids += [int(pid) for pid in path.read_text().split() if pid != "0"]
        return [pid for pid in pids if self._alive(pid)]

    def _alive(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        return False

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            with contextlib.suppress(OSError):
                for directory, _, _ in os.walk(self.root):
                    self._look(Path(directory))

    def _look(self, directory: Path) -> None:
        living = self.living(directory)
        own = (directory / "cgroup.procs").read_text().split()
        if kept := [pid for pid in own if pid != "0" and int(pid) in living]:
            if kept != own:
                (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in kept))
        elif own:
            (directory / "cgroup.procs").write_text("")
        if self.version == 2:
            events = f"populated {int(bool(living))}\nfrozen 0\n"
            if (directory / "cgroup.events").read_text() != events:
                (directory / "cgroup.events").write_text(events)
            if (directory / "cgroup.kill").read_text():
                (directory / "cgroup.kill").write_text("")
                self.killed.append(directory.name)
                for pid in living:
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(params=[1, 2])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path / "cgroup", request.param)
    yield kernel
    kernel.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


def kind(kernel: Kernel) -> type[Cgroup1] | type[Cgroup2]:
    return Cgroup2 if kernel.version == 2 else Cgroup1


def groups(kernel: Kernel, needs: str = "cgroup.procs") -> Groups:
    return Groups(f"cgroup{kernel.version}", kernel.root, kind(kernel), needs, kernel.files)


def until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_a_group_is_killed_as_a_whole(
    kernel: Kernel, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[str] = []

    def killed(pid: int, number: int) -> None:
        states.append((kernel.root / "a" / "freezer.state").read_text())
        os.kill(pid, number)

    monkeypatch.setattr(cgroup1, "signal_to", killed)
    kernel.make(kernel.root / "a")
    kernel.make(kernel.root / "a" / "made-by-the-step")
    group = kind(kernel)(kernel.root / "a", kernel.files)
    assert not group.populated()
    kernel.put(process.pid, kernel.root / "a" / "made-by-the-step")
    until(group.populated, "the process is noticed")
    assert group.pids() == [process.pid]
    group.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    until(lambda: not group.populated(), "the group is empty")
    if kernel.version == 2:
        assert kernel.killed == ["a"], "at once, from the top"
    else:
        assert states == ["FROZEN"], "what is killed cannot fork meanwhile"
        assert (kernel.root / "a" / "freezer.state").read_text() == "THAWED"
    group.tidy()
    assert not (kernel.root / "a" / "made-by-the-step").exists()
    group.remove()
    assert not (kernel.root / "a").exists()


def test_an_empty_group_is_left_alone(kernel: Kernel) -> None:
    kernel.make(kernel.root / "a")
    group = kind(kernel)(kernel.root / "a", kernel.files)
    group.kill()
    time.sleep(0.05)
    assert kernel.killed == []


def test_a_removed_group_is_empty(kernel: Kernel) -> None:
    group = kind(kernel)(kernel.root / "gone", kernel.files)
    assert not group.populated()
    assert group.pids() == []
    group.kill()
    group.remove()


def test_an_agent_has_a_directory_that_goes_with_it(kernel: Kernel, process: subprocess.Popen[bytes]) -> None:
    own = groups(kernel)
    own.open()
    (directory,) = kernel.root.glob(f"{PREFIX}*")
    step = own.step("17")
    kernel.put(process.pid, directory / "17")
    until(step.populated, "the process is noticed")
    own.close()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert list(kernel.root.glob(f"{PREFIX}*")) == []


def test_what_a_killed_agent_has_left_is_ended_by_the_next(
    kernel: Kernel, process: subprocess.Popen[bytes]
) -> None:
    """A running one is not touched: it holds a lock."""
    living = groups(kernel)
    living.open()
    leftover = kernel.root / f"{PREFIX}1-dead"
    kernel.make(leftover)
    kernel.make(leftover / "18")
    kernel.put(process.pid, leftover / "18")
    until(kind(kernel)(leftover, kernel.files).populated, "the process is noticed")
    (kernel.root / "somebody-elses").mkdir()
    groups(kernel).sweep()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert not leftover.exists()
    assert len(list(kernel.root.glob(f"{PREFIX}*"))) == 1
    assert (kernel.root / "somebody-elses").exists()
    living.close()


def test_a_kernel_that_cannot_kill_groups_offers_none(kernel: Kernel) -> None:
    own = groups(kernel, needs="cgroup.kill-of-the-future")
    with pytest.raises(OSError, match=r"no cgroup\.kill-of"):
        own.open()
    assert list(kernel.root.glob(f"{PREFIX}*")) == []


def test_where_nothing_may_be_made_there_is_none(tmp_path: Path) -> None:
    own = Groups("cgroup2", tmp_path / "missing", Cgroup2)
    with pytest.raises(OSError, match="No such file"):
        own.open()
    own.sweep()
    own.close()


def test_without_groups_a_step_has_none() -> None:
    none = Groups("subreaper")
    none.open()
    none.sweep()
    group = none.step("1")
    group.enter()
    group.kill()
    group.leave()
    assert not group.populated()
    none.clear("1")
    none.close()
