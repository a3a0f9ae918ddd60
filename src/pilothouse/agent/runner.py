"""Runs the attempts that this agent holds, from their dispatch until the server has acknowledged their result.

An attempt is held from the moment it arrives. It is not started before the server has confirmed that it runs here
(design.md, invariant 5), and its result is not reported before all its log lines and events are acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from pilothouse.agent.decoding import step_task, workspace_id
from pilothouse.agent.errors import StepCancelled, StepImpossible
from pilothouse.agent.executors.base import Executor, Outcome
from pilothouse.agent.job_env import JobEnvironments
from pilothouse.agent.outbox import Outbox
from pilothouse.agent.reporter import SpoolReporter
from pilothouse.agent.results import Result, ResultStore
from pilothouse.agent.workspace import WorkspaceError
from pilothouse.agent.workspace_manager import WorkspaceManager
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.steprun.v1 import steprun_pb2 as steprun

RECENT = 10_000  # number of ids of finished attempts that are remembered
STOPPED = "the agent was stopped"

_STATUS = {
    "succeeded": steprun.STEP_RUN_STATUS_SUCCESS,
    "failed": steprun.STEP_RUN_STATUS_FAILED,
    "cancelled": steprun.STEP_RUN_STATUS_CANCELLED,
    "timed_out": steprun.STEP_RUN_STATUS_TIMEOUT,
}

log = structlog.get_logger("agent.runner")


class Reports(Protocol):
    """The part of the link that the runner uses."""

    @property
    def connected(self) -> asyncio.Event: ...
    async def report(self, request: pb.ReportStepRunStatusRequest) -> bool: ...


@dataclass(slots=True)
class _Held:
    """A held attempt. `reason`: why it was cancelled, if it was."""

    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    task: asyncio.Task[None] | None = None


class Runner:
    """`executor_for` returns the executor of a step, or raises StepImpossible."""

    def __init__(
        self,
        results: ResultStore,
        workspaces: WorkspaceManager,
        executor_for: Callable[[pb.StepRun], Executor],
        job_environments: JobEnvironments,
    ) -> None:
        self._results = results
        self._workspaces = workspaces
        self._executor_for = executor_for
        self._job_environments = job_environments
        self._held: dict[str, _Held] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._executing = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False
        self._link: Reports
        self._outbox: Outbox

    def start(self, link: Reports, outbox: Outbox) -> None:
        """Report results from before a restart of the agent. Must be called before steps are dispatched."""
        self._link, self._outbox = link, outbox
        for result in self._results.unsettled.values():
            self._hold(result.step_run_id, self._deliver(result))

    @property
    def idle(self) -> bool:
        """Whether no step is running."""
        return not self._executing

    # -- what the server sends --------------------------------------------------------------------------

    def held(self) -> Collection[str]:
        return self._held.keys()

    def dispatch(self, message: pb.StepRun) -> None:
        """Accept an attempt. An attempt that is already held or finished is ignored."""
        step_run_id = message.step_run_id
        if step_run_id in self._held or step_run_id in self._recent or self._stopping:
            return
        self._hold(step_run_id, self._attempt(message))

    def cancel(self, step_run_id: str, reason: str) -> None:
        held = self._held.get(step_run_id)
        if held is not None and not held.cancel.is_set():
            log.info("agent.step_cancelling", step_run_id=step_run_id, reason=reason)
            held.reason = reason or "cancelled"
            held.cancel.set()

    def _hold(self, step_run_id: str, work: Coroutine[Any, Any, None]) -> None:
        held = self._held[step_run_id] = _Held()
        held.task = asyncio.create_task(work)
        held.task.add_done_callback(lambda task: self._let_go(step_run_id, task))

    def _let_go(self, step_run_id: str, task: asyncio.Task[None]) -> None:
        del self._held[step_run_id]
        self._recent[step_run_id] = None
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("agent.attempt_failed", step_run_id=step_run_id, exc_info=error)

    # -- one attempt ------------------------------------------------------------------------------------

    async def _attempt(self, message: pb.StepRun) -> None:
        held = self._held[message.step_run_id]
        started_at = int(time.time())
        if not held.cancel.is_set():
            running = pb.ReportStepRunStatusRequest(
                step_run_id=message.step_run_id,
                status=steprun.STEP_RUN_STATUS_RUNNING,
                start_time=started_at,
            )
            if not await self._link.report(running):
                log.info("agent.step_not_ours", step_run_id=message.step_run_id)
                return
        reporter = SpoolReporter(message.step_run_id, self._outbox, held.cancel)
        self._executing += 1
        self._quiet.clear()
        try:
            try:
                outcome = await self._carry_out(message, held, reporter)
            finally:
                reporter.close()
            result = self._end(message.step_run_id, outcome, reporter, started_at)
        finally:
            self._executing -= 1
            if not self._executing:
                self._quiet.set()
        await self._deliver(result)

    async def _carry_out(self, message: pb.StepRun, held: _Held, reporter: SpoolReporter) -> Outcome:
        log.info(
            "agent.step_started",
            step_run_id=message.step_run_id,
            job=message.job_name,
            step=message.step_name,
        )
        try:
            if held.cancel.is_set():
                raise StepCancelled("cancelled before it started")
            outcome = await self._execute(message, held, reporter)
        except StepCancelled as cancelled:
            outcome = Outcome("cancelled", 143, str(cancelled))
        except (StepImpossible, WorkspaceError) as impossible:
            outcome = Outcome("failed", 1, str(impossible))
        except OSError as error:
            outcome = Outcome("failed", 1, f"cannot prepare the step on this agent: {error.strerror}")
        except Exception as error:
            # The step must end whatever goes wrong; the text of the error may contain a secret.
            log.exception("agent.executor_failed", step_run_id=message.step_run_id)
            outcome = Outcome("failed", 1, f"the agent failed to carry out the step ({type(error).__name__})")
        if outcome.status == "cancelled":
            outcome = self._with_reason(outcome, held.reason)
        return outcome

    def _with_reason(self, outcome: Outcome, reason: str) -> Outcome:
        if self._stopping and reason == STOPPED:
            return Outcome("failed", outcome.exit_code, outcome.error.replace("cancelled", STOPPED, 1))
        if not reason or reason.startswith("cancelled"):
            return outcome
        ended, semicolon, more = outcome.error.partition("; ")
        return Outcome("cancelled", outcome.exit_code, f"{ended}: {reason}{semicolon}{more}")

    async def _execute(self, message: pb.StepRun, held: _Held, reporter: SpoolReporter) -> Outcome:
        executor = self._executor_for(message)
        async with self._workspaces.use(message, held.cancel) as workspace:
            if message.fresh_workspace:
                self._job_environments.forget(workspace_id(message))
            outcome = await executor.run(step_task(message, workspace), reporter, held.cancel)
            if message.last_in_job and outcome.status == "succeeded" and not message.keep_workspace:
                await self._workspaces.remove(message)
                self._job_environments.forget(workspace_id(message))
        return outcome

    def _end(self, step_run_id: str, outcome: Outcome, reporter: SpoolReporter, started_at: int) -> Result:
        result = Result(
            step_run_id=step_run_id,
            status=outcome.status,
            exit_code=outcome.exit_code,
            error=outcome.error,
            started_at=started_at,
            ended_at=int(time.time()),
            last_log=reporter.last_log,
            last_event=reporter.last_event,
        )
        self._results.put(result)
        log.info(
            "agent.step_finished", step_run_id=step_run_id, status=outcome.status, exit_code=outcome.exit_code
        )
        return result

    async def _deliver(self, result: Result) -> None:
        """Wait until the attempt's log and events are acknowledged, then report its result."""
        if result.last_log >= 0:
            await self._outbox.logs.acked(result.last_log)
        if result.last_event >= 0:
            await self._outbox.events.acked(result.last_event)
        request = pb.ReportStepRunStatusRequest(
            step_run_id=result.step_run_id,
            status=_STATUS[result.status],
            exit_code=result.exit_code,
            error_message=result.error,
            start_time=result.started_at,
            end_time=result.ended_at,
        )
        if not await self._link.report(request):
            log.warning("agent.result_too_late", step_run_id=result.step_run_id, status=result.status)
        self._results.settle(result.step_run_id)

    # -- the end ----------------------------------------------------------------------------------------

    async def stop(self, within: float, push_within: float) -> None:
        """Accept no more attempts, end all steps, then report for up to `push_within` seconds; `within` in total."""
        deadline = time.monotonic() + within
        self._stopping = True
        for held in self._held.values():
            held.reason = held.reason or STOPPED
            held.cancel.set()
        tasks = {held.task for held in self._held.values() if held.task is not None}
        try:
            async with asyncio.timeout(within):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("agent.steps_not_ended", count=self._executing)
        if tasks and self._link.connected.is_set():
            await asyncio.wait(tasks, timeout=max(0.0, min(push_within, deadline - time.monotonic())))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
