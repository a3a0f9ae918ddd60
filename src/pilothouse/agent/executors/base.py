"""The interface of executors. An executor reports to a StepReporter and does not depend on server or spool."""

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

    step_run_id: str  # id of this attempt and its lease
    run_id: str
    job_id: str
    job_name: str
    step_name: str
    uses: str
    action: str
    args: Mapping[str, Any]
    env: Mapping[str, str]
    secrets: Mapping[str, str]  # to be masked; already inserted into `args` and `env`
    mask: tuple[str, ...]  # further values to mask
    workspace: Path  # the job's directory, which exists
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
    exit_code: int  # as in shells: 128 + n after signal n
    error: str = ""  # message for users; contains no secrets


@dataclass(frozen=True, slots=True)
class Condition:
    """The health of the agent. `blocked`: slots occupied by processes of ended steps; `problems`: for users."""

    blocked: int = 0
    problems: tuple[str, ...] = ()


class StepReporter(Protocol):
    """Receives log lines and events from an executor. Plain methods never block; all texts are already masked."""

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        """Report log lines in order, without newlines. `at_ms`: when they were read, in Unix ms."""

    def output(self, name: str, value: Any) -> None:
        """Report an output: a JSON value as returned by `wire.outputs.read_json`."""

    def progress(self, percent: int, message: str) -> None:
        """Report progress. ``percent``: 0 to 100."""

    def tests(self, name: str, report: Mapping[str, Any]) -> None:
        """Report tests (``wire/test_reports.py``)."""

    async def drain(self) -> None:
        """Backpressure: awaited after each chunk read; returns when more may be reported."""


class Executor(Protocol):
    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        """Run one attempt. Errors of the step are returned as an Outcome, not raised.

        If `cancel` is set or this call is cancelled, all processes of the step are ended.
        """


async def race(
    work: asyncio.Future[Any],
    cancel: asyncio.Event,
    limit: float | None,
    refused: asyncio.Event | None = None,
) -> Literal["done", "cancelled", "timed_out", "refused"]:
    """Wait until the work is done, an event is set, or the limit (seconds) has passed. The work is not cancelled."""
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
