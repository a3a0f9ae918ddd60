"""The calls of agent.v1.AgentService about work: heartbeats, work that is fetched, reports, cancels."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.edge.grpc import caller
from pilothouse.fleet import messages, store
from pilothouse.fleet.beats import Beat
from pilothouse.fleet.budgets import Budgets
from pilothouse.fleet.credentials import agent_caller
from pilothouse.fleet.errors import BadMessage, WrongAgent
from pilothouse.fleet.handlers import WorkControl
from pilothouse.fleet.model import MAX_PROBLEM, POLL, TaskReport, TaskStatus, Verdict
from pilothouse.fleet.open_calls import OpenCalls
from pilothouse.fleet.polling import Polling
from pilothouse.fleet.registry import require_agent
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.storage import Storage, Tx, now_ms
from pilothouse.wire.agent.v1 import agent_pb2 as pb

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

CANCEL = "run.control"
"""What a user needs to cancel step runs and jobs; agents may cancel their own."""
STALE = "this step run is no longer leased to this agent"


class WorkCalls:
    """Calls of agents about their work, and of users who cancel it."""

    def __init__(
        self, fleet: Fleet, identity: Identity, storage: Storage, clock: Callable[[], int] = now_ms
    ) -> None:
        """``clock`` gives ms since 1970."""
        self.polling = Polling(fleet, storage, clock)
        self._calls = OpenCalls(fleet)
        self._fleet = fleet
        self._identity = identity
        self._storage = storage
        self._clock = clock
        self._arrivals = itertools.count(1)
        self.budgets = self._budgets = Budgets(clock)
        self._beating: dict[str, asyncio.Future[dict[str, str]]] = {}

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        """A heartbeat; for agents that do not keep a ``Connect`` call open. The answer says what they are to stop."""
        agent_id = (await self._self(context, request.agent_id)).id
        self._fleet.arrivals.heard(agent_id)
        beat = await self._beat_of(agent_id, request)
        writing = self._beating.get(agent_id)
        while writing is not None and beat is not None:  # a list must be taken up; others share a write
            await asyncio.shield(writing)
            writing = self._beating.get(agent_id)
        if writing is None:  # otherwise this one is answered with that which is written at the moment
            writing = self._storage.submit(lambda tx: self._beat(tx, agent_id, beat))
            self._beating[agent_id] = writing
            writing.add_done_callback(lambda _: self._beating.pop(agent_id, None))
        cancels = await asyncio.shield(writing)
        answer = pb.HeartbeatResponse(success=True, message="ok", timestamp=int(time.time()))
        answer.cancels.extend(messages.cancels(cancels))
        return answer

    async def _beat_of(self, agent_id: str, request: pb.HeartbeatRequest) -> Beat | None:
        """What a heartbeat says beside that the agent lives, if anything."""
        if not (request.reports_running or request.blocked_slots or request.problems):
            return None
        agent = await self._storage.read(lambda conn: require_agent(conn, agent_id))
        return messages.beat(request, agent.profile.slots, first=False)

    def _beat(self, tx: Tx, agent_id: str, beat: Beat | None) -> dict[str, str]:
        if beat is None:
            self._fleet.heartbeat(tx, agent_id)
            return self._fleet.stopping(tx.conn, agent_id)
        kinds = frozenset(self._fleet.encoders(POLL))
        self._fleet.heartbeat(tx, agent_id, beat.holds, condition=beat.condition, kinds=kinds)
        cancels = self._fleet.stopping(tx.conn, agent_id)
        held = {lease.id for lease in store.leases_of(tx.conn, agent_id)}
        ended = itertools.islice((beat.holds or frozenset()) - held, messages.MAX_CANCELS)
        return {**dict.fromkeys(ended, STALE), **cancels}

    async def FetchStepRun(
        self, request: pb.FetchStepRunRequest, context: Context
    ) -> pb.FetchStepRunResponse:
        """Work for the agent, leased to it: at most ``max_step_runs``, and no more than it has free slots.

        An empty answer comes at once, and costs no transaction.
        """
        agent_id = (await self._self(context, request.agent_id)).id
        messages.check_asked(request.max_step_runs)
        tasks, cancels = await self.polling.fetch(agent_id, request.max_step_runs)
        if tasks and context.done():
            self.polling.give_back(agent_id, tasks)
        encoders = self._fleet.encoders(POLL)
        answer = pb.FetchStepRunResponse(success=True, message="ok" if tasks else "no work is waiting")
        answer.step_runs.extend(encoders[task.kind](task) for task in tasks)
        answer.cancels.extend(messages.cancels(cancels))
        return answer

    async def ReportStepRunStatus(
        self, request: pb.ReportStepRunStatusRequest, context: Context
    ) -> pb.ReportStepRunStatusResponse:
        """Report a status; ``success``: it is stored, or was before, and the agent may go on with the step run."""
        agent_id = (await self._self(context, request.agent_id)).id
        report = messages.report(request)
        if report is None:
            raise BadMessage("status is none that an agent can report")
        messages.check_times(request.start_time, request.end_time)
        self._budgets.check_reports(agent_id)
        verdict, stop = Verdict.STALE, ""
        if report.task_id:
            shown = await self._fleet.screened(agent_id, report)
            verdict, stop = await self._storage.write(lambda tx: self._reported(tx, agent_id, shown))
        if stop:
            return pb.ReportStepRunStatusResponse(success=False, message=f"to be stopped: {stop}")
        taken = verdict is not Verdict.STALE
        if not taken:
            self._budgets.stale(agent_id)
        return pb.ReportStepRunStatusResponse(success=taken, message=verdict.value if taken else STALE)

    def _reported(self, tx: Tx, agent_id: str, report: TaskReport) -> tuple[Verdict, str]:
        """The verdict; and for a step run that still runs, why it is to be stopped, if it is."""
        verdict = self._fleet.report(tx, agent_id, report)
        if report.status is not TaskStatus.RUNNING or verdict is Verdict.STALE:
            return verdict, ""
        lease = store.lease(tx.conn, report.task_id)
        return verdict, lease.stop_reason if lease is not None else ""

    async def ReportJobRunStatus(
        self, request: pb.ReportJobRunStatusRequest, context: Context
    ) -> pb.ReportJobRunStatusResponse:
        """Report the status of a job, which is that of all step runs of it that the agent holds."""
        by = await self._self(context, request.agent_id)
        report = messages.job_report(request)
        job_id = _id(request.job_run_id, "job_run_id")
        self._budgets.check_reports(by.id)
        control = self._control
        try:
            held = await self._storage.read(lambda conn: control.held_of_job(conn, by, job_id))
            if held:
                screened = await self._fleet.screened_text(by.id, held[0], report.error)
                report = TaskReport("", report.status, error=screened, screened=True)
            verdict = await self._storage.write(lambda tx: control.report_job(tx, by, job_id, report))
        except Refusal as error:
            self._budgets.stale(by.id)
            if error.code != "INVALID_STATE_TRANSITION":
                raise
            return pb.ReportJobRunStatusResponse(success=False, message=error.message)
        taken = verdict is not Verdict.STALE
        return pb.ReportJobRunStatusResponse(
            success=taken, message=verdict.value if taken else "the job has ended"
        )

    async def CancelStepRun(
        self, request: pb.CancelStepRunRequest, context: Context
    ) -> pb.CancelStepRunResponse:
        """Cancel a step run: at once, or its agent is told to stop it. ``success`` false: it has ended already."""
        by = await self._canceller(context, request.agent_id)
        id, agent_id = _id(request.step_run_id, "step_run_id"), request.agent_id
        reason, control = messages.text(request.reason)[:MAX_PROBLEM], self._control
        try:
            await self._storage.read(lambda conn: control.check_step_run(conn, by, id, agent_id))
            await self._storage.write(lambda tx: control.cancel_step_run(tx, by, id, reason, agent_id))
        except Refusal as error:
            return pb.CancelStepRunResponse(success=False, message=_outcome(error))
        return pb.CancelStepRunResponse(success=True, message="cancelled")

    async def CancelJobRun(
        self, request: pb.CancelJobRunRequest, context: Context
    ) -> pb.CancelJobRunResponse:
        """Cancel what is left of a job; ``success`` false: it has ended already."""
        by = await self._canceller(context, "")
        id, control = _id(request.job_run_id, "job_run_id"), self._control
        reason = messages.text(request.reason)[:MAX_PROBLEM]
        try:
            await self._storage.read(lambda conn: control.check_job(conn, by, id))
            await self._storage.write(lambda tx: control.cancel_job(tx, by, id, reason))
        except Refusal as error:
            return pb.CancelJobRunResponse(success=False, message=_outcome(error))
        return pb.CancelJobRunResponse(success=True, message="cancelled")

    @property
    def _control(self) -> WorkControl:
        control = self._fleet.control
        if control is None:
            raise Refusal.of("NOT_IMPLEMENTED", "this server has no work")
        return control

    async def _canceller(self, context: Context, claimed: str) -> Principal:
        """The caller, an agent or a user who may cancel work."""
        principal = await caller(context, self._identity)
        if principal.kind == "agent":
            if claimed and claimed != principal.id:
                raise WrongAgent(principal.id)
            self._budgets.check_reports(principal.id)
        else:
            require(principal, CANCEL)
        return principal

    async def _self(self, context: Context, claimed: str) -> Principal:
        """The calling agent; it may not act under another's id."""
        principal = await agent_caller(context, self._identity)
        if claimed and claimed != principal.id:
            raise WrongAgent(principal.id)
        return principal


def _id(given: str, field: str) -> str:
    """An id of a request. Raises :class:`BadMessage` for a missing one, and one that is too long to be ours."""
    if not given:
        raise BadMessage(f"{field} is missing")
    if not (id := messages.task_id(given)):
        raise BadMessage(f"{field} has at most {messages.MAX_ID} characters, none of them NUL")
    return id


def _outcome(error: Refusal) -> str:
    """The message of an outcome; what is a fault of the call is raised again."""
    if error.code != "INVALID_STATE_TRANSITION":
        raise error
    return error.message
