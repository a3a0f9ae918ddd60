"""The dummy executor does what its arguments say."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent.executors.base import Outcome, StepTask, Stream
from pilothouse.agent.executors.dummy import DummyExecutor
from support.waiting import PATIENCE

TASK = StepTask(
    step_run_id="attempt-1",
    run_id="run-1",
    job_id="job-1",
    job_name="build",
    step_name="compile",
    uses="dummy",
    action="",
    args={},
    env={},
    secrets={"PASSWORD": "hunter2"},
    mask=(),
    workspace=Path("/"),
    timeout=None,
    attempt=1,
)


@dataclass
class Recorder:
    told: list[Any] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    drained: int = 0

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        self.seen += texts

    def output(self, name: str, value: Any) -> None:
        self.told.append((name, value))

    def progress(self, percent: int, message: str) -> None:
        self.told.append((percent, message))

    async def drain(self) -> None:
        self.drained += 1


async def perform(report: Recorder, limit: float | None = None, **args: Any) -> Outcome:
    return await DummyExecutor().run(replace(TASK, args=args, timeout=limit), report, asyncio.Event())


async def test_without_arguments_it_succeeds_at_once() -> None:
    report = Recorder()
    assert await perform(report) == Outcome("succeeded", 0)
    assert report == Recorder()


async def test_everything_at_once() -> None:
    report = Recorder()
    outcome = await perform(
        report,
        lines=450,
        text="{n} hunter2",
        progress=[10, [99, "nearly hunter2"]],
        outputs={"a": [1, "hunter2"]},
        duration=0.02,
        exit=3,
    )
    assert outcome == Outcome("failed", 3, "exit code 3")
    assert report.seen == [
        *(f"{n} ***" for n in range(1, 451)),
        "pilot: warning: output a contains a masked value and is stored masked",
    ]
    assert report.told == [(10, ""), (99, "nearly ***"), ("a", [1, "***"])]
    assert report.drained == 3


async def test_lines_may_be_commands() -> None:
    report = Recorder()
    await perform(report, lines=2, text="::output n{n}=x")
    assert report.told == [("n1", "x"), ("n2", "x")]


@pytest.mark.parametrize(
    ("args", "seconds"), [({"lines": 3, "interval": 0.03}, 0.09), ({"duration": 0.09}, 0.09)]
)
async def test_it_takes_its_time(args: dict[str, Any], seconds: float) -> None:
    started = time.monotonic()
    assert (await perform(Recorder(), **args)).status == "succeeded"
    assert time.monotonic() - started >= seconds * 0.9


async def test_outputs_are_checked_and_masks_counted_as_for_other_steps() -> None:
    report = Recorder()
    await perform(report, outputs={"deep": json.loads("[" * 100 + "]" * 100), "n": 1})
    assert report.told == [("n", 1)]
    assert report.seen == ["pilot: warning: output deep dropped: it is nested more than 64 deep"]
    outcome = await perform(report, lines=3000, text="::mask value-{n}")
    assert outcome == Outcome("failed", 1, "::mask: an attempt has at most 2000 masked values")


async def test_failing() -> None:
    assert await perform(Recorder(), fail="out of hunter2") == Outcome("failed", 1, "out of ***")
    assert (await perform(Recorder(), lines="many")).error.startswith("dummy: invalid literal")
    assert (await perform(Recorder(), lnes=3)).error == "dummy: unknown argument lnes"


async def test_cancel_and_timeout() -> None:
    report, cancel = Recorder(), asyncio.Event()
    task = replace(TASK, args={"lines": 1, "hang": True})
    running = asyncio.ensure_future(DummyExecutor().run(task, report, cancel))
    async with asyncio.timeout(PATIENCE):
        while not report.seen:
            await asyncio.sleep(0)
    cancel.set()
    assert await running == Outcome("cancelled", 143, "cancelled")
    assert (await DummyExecutor().run(TASK, report, cancel)).status == "cancelled", "and before it starts"
    assert await perform(report, 0.05, hang=True) == Outcome("timed_out", 143, "timed out after 0.05 s")
