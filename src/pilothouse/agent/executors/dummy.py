"""An executor that simulates steps as their arguments describe. For tests and benchmarks.

    lines     how many lines to write             interval  seconds after each
    text      a line; {n} is its number from 1     (may be a command such as "::mask value")
    outputs   {name: JSON value}                   progress  [percent or [percent, message], ...]
    duration  seconds, over which the progress is spread evenly, after the lines
    exit      exit code (default 0)                fail      a message: the step fails with it
    hang      true: runs until cancelled

Without arguments it succeeds at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilothouse.agent.executors.base import Outcome, StepReporter, StepTask, race
from pilothouse.agent.executors.output import StepOutput

BATCH_LINES = 200


@dataclass(frozen=True, slots=True)
class Script:
    lines: int = 0
    text: str = "line {n}"
    interval: float = 0.0
    outputs: Mapping[str, Any] = field(default_factory=dict)
    progress: Sequence[tuple[int, str]] = ()
    duration: float = 0.0
    exit: int = 0
    fail: str = ""
    hang: bool = False

    @classmethod
    def read(cls, args: Mapping[str, Any]) -> Script:
        """Raises ValueError or TypeError for invalid arguments."""
        unknown = args.keys() - set(cls.__slots__)
        if unknown:
            raise ValueError(f"unknown argument {min(unknown)}")
        progress = [item if isinstance(item, list) else [item, ""] for item in args.get("progress", ())]
        return cls(
            lines=int(args.get("lines", 0)),
            text=str(args.get("text", "line {n}")),
            interval=float(args.get("interval", 0)),
            outputs=dict(args.get("outputs", {})),
            progress=[(int(percent), str(message)) for percent, message in progress],
            duration=float(args.get("duration", 0)),
            exit=int(args.get("exit", 0)),
            fail=str(args.get("fail", "")),
            hang=bool(args.get("hang", False)),
        )


class DummyExecutor:
    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        if cancel.is_set():
            return Outcome("cancelled", 143, "cancelled before it started")
        if not task.args:
            return Outcome("succeeded", 0)
        try:
            script = Script.read(task.args)
        except (ValueError, TypeError) as error:
            return Outcome("failed", 2, f"dummy: {error}")
        output = StepOutput(task, report)
        work = asyncio.ensure_future(_perform(script, report, output))
        try:
            end = await race(work, cancel, task.timeout, output.refused)
        finally:
            work.cancel()
            await asyncio.wait({work})
            output.finish("stdout")
        if end == "cancelled":
            return Outcome("cancelled", 143, "cancelled")
        if end == "timed_out":
            return Outcome("timed_out", 143, f"timed out after {task.timeout:g} s")
        if output.refusal:
            return Outcome("failed", 1, output.refusal)
        work.result()
        if script.fail:
            return Outcome("failed", script.exit or 1, output.mask(script.fail))
        if script.exit:
            return Outcome("failed", script.exit, f"exit code {script.exit}")
        return Outcome("succeeded", 0)


async def _perform(script: Script, report: StepReporter, output: StepOutput) -> None:
    await _write(script, report, output)
    pause = script.duration / max(1, len(script.progress))
    for percent, message in script.progress:
        await asyncio.sleep(pause)
        report.progress(max(0, min(100, percent)), output.mask(message))
    if not script.progress:
        await asyncio.sleep(pause)
    for name, value in script.outputs.items():
        output.set_output(name, json.dumps(value))
    if script.hang:
        await asyncio.get_running_loop().create_future()


async def _write(script: Script, report: StepReporter, output: StepOutput) -> None:
    batch = 1 if script.interval else BATCH_LINES
    for start in range(0, script.lines, batch):
        numbers = range(start + 1, min(start + batch, script.lines) + 1)
        text = "".join(script.text.replace("{n}", str(n)) + "\n" for n in numbers)
        await output.take("stdout", text.encode())
        await report.drain()
        await asyncio.sleep(script.interval)
