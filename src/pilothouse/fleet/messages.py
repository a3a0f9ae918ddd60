"""Commands, reports and profiles as agent.v1 messages (arcentra-wire.txt); pure."""

from __future__ import annotations

from pilothouse.fleet.model import AgentProfile, TaskReport, TaskStatus
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.steprun.v1 import steprun_pb2 as steprun

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


def report(message: pb.TaskStatus | pb.ReportStepRunStatusRequest) -> TaskReport | None:
    """What an agent reports; ``None`` where the status is none that an agent can report."""
    status = _STATUS.get(message.status)
    if status is None:
        return None
    return TaskReport(
        message.step_run_id, status, message.exit_code, message.error_message, dict(message.metrics)
    )


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
