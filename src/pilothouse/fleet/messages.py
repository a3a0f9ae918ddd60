"""Commands, reports and profiles as agent.v1 messages (arcentra-wire.txt), and the bounds of their fields; pure."""

from __future__ import annotations

from collections.abc import Mapping

from pilothouse.fleet.beats import Beat
from pilothouse.fleet.errors import BadMessage
from pilothouse.fleet.model import AgentProfile, Condition, TaskReport, TaskStatus
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.pipeline.v1 import pipeline_pb2 as pipeline
from pilothouse.wire.steprun.v1 import steprun_pb2 as steprun
from pilothouse.wire.stream.v1.stream_pb2 import HeartbeatData, StepRunStatusUpdate

MAX_REGISTRATION = 256 << 10
"""Bytes of a message of ``Register``."""
MAX_ID = 128
"""Characters of an id."""
MAX_TEXT = 64 << 10
"""Characters of a reason or error message; of one that is longer only that is kept."""
MAX_METRICS, MAX_METRIC = 100, 4096
"""How many metrics of a report are kept, and characters of a name or value; longer ones are dropped."""
MAX_ASKED = 10_000
"""How many step runs an agent may ask for; it never gets more than it has slots."""
MAX_CANCELS = 1_000
"""Step runs that an answer to a heartbeat tells an agent to stop."""
MAX_URIS, MAX_URI = 100, 4096
"""URIs of artifacts in a report on a job, and characters of a name or URI."""
MAX_HELD = 1_000
"""How many tasks an agent may list besides two for each slot: background steps hold no slot."""

_STATUS = {
    steprun.STEP_RUN_STATUS_RUNNING: TaskStatus.RUNNING,
    steprun.STEP_RUN_STATUS_SUCCESS: TaskStatus.SUCCEEDED,
    steprun.STEP_RUN_STATUS_FAILED: TaskStatus.FAILED,
    steprun.STEP_RUN_STATUS_CANCELLED: TaskStatus.CANCELLED,
    steprun.STEP_RUN_STATUS_TIMEOUT: TaskStatus.TIMED_OUT,
    steprun.STEP_RUN_STATUS_SKIPPED: TaskStatus.SKIPPED,
}


def dispatch(agent_id: str, task_id: str, work: pb.StepRun) -> pb.ConnectResponse:
    """The command that hands a task out; its id is the task's, so that a repeated one is known as such."""
    runs = pb.TaskDispatch(step_runs=[work])
    return pb.ConnectResponse(agent_id=agent_id, command_id=task_id, task_dispatch=runs)


def cancel(agent_id: str, task_id: str, reason: str) -> pb.ConnectResponse:
    """The command that stops a task."""
    order = pb.TaskCancel(step_run_id=task_id, reason=reason)
    return pb.ConnectResponse(agent_id=agent_id, command_id=f"cancel-{task_id}", task_cancel=order)


def cancels(reasons: Mapping[str, str]) -> list[pb.TaskCancel]:
    """The step runs that a polling agent is to stop."""
    return [pb.TaskCancel(step_run_id=id, reason=reason) for id, reason in reasons.items()]


def task_id(id: str) -> str:
    """The id of a task or command; empty, which names none, where it is none of ours."""
    return id if len(id) <= MAX_ID and "\x00" not in id else ""


def text(said: str) -> str:
    """A reason or error message. One that is too long is left out: a part of it could hold a part of a secret."""
    if len(said) > MAX_TEXT:
        return f"(a message of {len(said)} characters, of which at most {MAX_TEXT} are kept, was left out)"
    return said


def beat(
    message: pb.ConnectHeartbeat | pb.HeartbeatRequest | HeartbeatData, slots: int, *, first: bool
) -> Beat:
    """A heartbeat of an agent with that many slots. Raises :class:`BadMessage` for a list that is too long."""
    held = message.running_step_run_ids
    most = 2 * slots + MAX_HELD
    if len(held) > most:
        raise BadMessage(f"an agent with {slots} slots lists at most {most} step runs")
    holds = frozenset(filter(None, map(task_id, held))) if message.reports_running else None
    return Beat(holds, Condition.reported(message.blocked_slots, message.problems), first)


def report(message: pb.TaskStatus | pb.ReportStepRunStatusRequest | StepRunStatusUpdate) -> TaskReport | None:
    """What an agent reports; ``None`` where the status is none that it can report."""
    status = _STATUS.get(message.status)
    if status is None:
        return None
    return TaskReport(
        task_id(message.step_run_id),
        status,
        message.exit_code,
        text(message.error_message),
        _metrics(message.metrics),
    )


_JOB_STATUS = {
    pipeline.PIPELINE_STATUS_RUNNING: TaskStatus.RUNNING,
    pipeline.PIPELINE_STATUS_SUCCESS: TaskStatus.SUCCEEDED,
    pipeline.PIPELINE_STATUS_FAILED: TaskStatus.FAILED,
    pipeline.PIPELINE_STATUS_CANCELLED: TaskStatus.CANCELLED,
}


def job_report(message: pb.ReportJobRunStatusRequest) -> TaskReport:
    """What an agent reports of a job. Raises :class:`BadMessage`."""
    status = _JOB_STATUS.get(message.status)  # type: ignore[call-overload]  # any number
    if status is None:
        raise BadMessage(
            "status is none that an agent can report: 2 running, 3 success, 4 failed, 5 cancelled"
        )
    check_times(message.start_time, message.end_time)
    uris = message.artifact_uris
    if len(uris) > MAX_URIS or any(len(word) > MAX_URI for pair in uris.items() for word in pair):
        raise BadMessage(f"artifact_uris has at most {MAX_URIS} entries of {MAX_URI} characters")
    return TaskReport("", status, error=text(message.error_message))


def check_asked(most: int) -> None:
    """Raises :class:`BadMessage` for a number of step runs that no agent can ask for."""
    if not 0 <= most <= MAX_ASKED:
        raise BadMessage(f"max_step_runs is 0 (any number) to {MAX_ASKED}")


def check_times(start: int, end: int) -> None:
    """Raises :class:`BadMessage` for times of a report that cannot be."""
    if start < 0 or end < 0:
        raise BadMessage("start_time and end_time are seconds since 1970")
    if end and start > end:
        raise BadMessage("end_time is before start_time")


def _metrics(given: Mapping[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in given.items():
        if len(kept) == MAX_METRICS:
            break
        if len(name) <= MAX_METRIC and len(value) <= MAX_METRIC:
            kept[name] = value
    return kept


def profile(request: pb.RegisterRequest) -> AgentProfile:
    """What an agent says of itself. Every agent has the labels ``os`` and ``arch``, if it names them at all."""
    given = {name: value for name, value in (("os", request.os), ("arch", request.arch)) if value}
    return AgentProfile(
        agent_id=request.agent_id,
        name=request.agent_name,
        platform=request.platform or "process",
        region=request.region,
        labels={**given, **request.labels},
        metadata=dict(request.metadata),
        slots=request.max_concurrent_step_runs or 1,
        max_sessions=request.max_sessions,
        os=request.os,
        arch=request.arch,
        version=request.version,
        ip=request.ip,
        ephemeral=request.metadata.get("ephemeral", "").lower() == "true",
    )
