"""What every executor takes and gives. An executor knows neither server nor spool, only the reporter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Stream = Literal["stdout", "stderr"]
Status = Literal["succeeded", "failed", "cancelled", "timed_out"]


@dataclass(frozen=True, slots=True)
class StepTask:
    """One attempt of a step, decoded from `agent.v1.StepRun` by the link."""

    step_run_id: str  # names this attempt under this lease, and no other
    run_id: str
    job_id: str
    job_name: str
    step_name: str
    uses: str
    action: str
    args: Mapping[str, Any]
    env: Mapping[str, str]
    secrets: Mapping[str, str]  # masked; they are in `args` and `env` where the spec puts them
    mask: tuple[str, ...]  # further values to mask
    workspace: Path  # the directory of the job, existing
    timeout: float | None  # seconds
    attempt: int
    workspace_id: str = "default"  # names the workspace among those of the agent
    pipeline_name: str = ""
    branch: str = ""
    commit_sha: str = ""
    tag: str = ""
    event: str = ""  # what started the run: manual, cron, push, …

    @property
    def full_action(self) -> str:
        """`shell/command`, however it is split over `uses` and `action`."""
        return f"{self.uses}/{self.action}" if self.action else self.uses


@dataclass(frozen=True, slots=True)
class Outcome:
    status: Status
    exit_code: int  # as shells count: 128 + n after signal n
    error: str = ""  # for people; free of secrets


@dataclass(frozen=True, slots=True)
class Condition:
    """How well an agent is. `blocked`: slots taken by what ended steps have left; `problems`: for people."""

    blocked: int = 0
    problems: tuple[str, ...] = ()


class StepReporter(Protocol):
    """Where an executor tells what happens. The plain methods never block; all texts are already masked."""

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        """Lines in order, without their newlines. `at_ms`: Unix milliseconds when they were read."""

    def output(self, name: str, value: Any) -> None:
        """An output of the step: a JSON value as `wire.outputs.read_json` gives it."""

    def progress(self, percent: int, message: str) -> None:
        """0 to 100."""

    async def drain(self) -> None:
        """Backpressure: awaited after each chunk read; returns when more may be reported."""


class Executor(Protocol):
    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        """Carry out one attempt. Whatever is wrong with the step is an Outcome, not an exception.

        `cancel` set, or this call cancelled, ends all that the step started.
        """


async def race(
    work: asyncio.Future[Any],
    cancel: asyncio.Event,
    limit: float | None,
    refused: asyncio.Event | None = None,
) -> Literal["done", "cancelled", "timed_out", "refused"]:
    """Wait for the work, an event or the limit (seconds), whichever is first. The work goes on."""
    stops = {asyncio.ensure_future(event.wait()): event for event in (cancel, refused) if event is not None}
    try:
        done, _ = await asyncio.wait({work, *stops}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for stop in stops:
            stop.cancel()
    if work in done:
        return "done"
    if cancel.is_set():
        return "cancelled"
    return "refused" if done else "timed_out"
