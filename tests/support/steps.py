"""Steps of the process executor without a server; their reports are recorded."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pilothouse.agent.executors.base import Outcome, StepTask, Stream
from pilothouse.agent.executors.process import ProcessExecutor, ProcessSettings
from pilothouse.agent.guard import Guard
from support.waiting import PATIENCE

_guards: dict[str, Guard] = {}


def guard(wanted: str = "") -> Guard:
    """One for this process and each way of killing; skips the test where the machine does not offer it."""
    if wanted not in _guards or not _guards[wanted].running:
        _guards[wanted] = Guard(wanted)
        atexit.register(_guards[wanted].close)
    if wanted and _guards[wanted].backend != wanted:
        pytest.skip(f"this machine offers no {wanted} to this user: {_guards[wanted].why}")
    return _guards[wanted]


def executor(wanted: str = "", data_dir: Path | None = None, **settings: Any) -> ProcessExecutor:
    """One with little patience, in a directory of its own."""
    settings = {"grace": 0.5, "linger": 0.3, **settings}
    return ProcessExecutor(ProcessSettings(data_dir or scratch(), **settings), guard(wanted))


def scratch() -> Path:
    """A directory through which every user may pass."""
    directory = Path(tempfile.mkdtemp(prefix="pilot-test-"))
    directory.chmod(0o711)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@dataclass
class Recorder:
    """What a step reports."""

    seen: list[tuple[Stream, str]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    percents: list[tuple[int, str]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    gate: asyncio.Event | None = None  # while it is there and not set, nothing more may be reported

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        self.seen += [(stream, text) for text in texts]
        self.times.append(at_ms)

    def output(self, name: str, value: Any) -> None:
        self.outputs[name] = value

    def progress(self, percent: int, message: str) -> None:
        self.percents.append((percent, message))

    async def drain(self) -> None:
        if self.gate is not None:
            await self.gate.wait()

    def of(self, stream: Stream) -> list[str]:
        return [text for where, text in self.seen if where == stream]


def step_task(workspace: Path, **fields: Any) -> StepTask:
    """A step with a name of its own."""
    plain: dict[str, Any] = {
        "step_run_id": f"attempt-{os.urandom(4).hex()}",
        "run_id": "run-1",
        "job_id": "job-1",
        "job_name": "build",
        "step_name": "compile",
        "uses": "shell",
        "action": "command",
        "args": {},
        "env": {},
        "secrets": {},
        "mask": (),
        "workspace": workspace,
        "timeout": 60.0,
        "attempt": 1,
    }
    return StepTask(**{**plain, **fields})


async def perform(task: StepTask, report: Recorder, wanted: str = "", /, **args: Any) -> Outcome:
    """Run one step with these arguments, to its end."""
    return await executor(wanted).run(replace(task, args=args), report, asyncio.Event())


async def written(path: Path, timeout: float = PATIENCE) -> str:
    """The text of a file, once it has a whole line."""
    async with asyncio.timeout(timeout):
        while not (path.exists() and path.read_text().endswith("\n")):
            await asyncio.sleep(0.01)
    return path.read_text().strip()


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
