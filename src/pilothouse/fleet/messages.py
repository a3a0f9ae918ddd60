"""Tasks and statuses as agent.v1 messages (arcentra-wire.txt); pure."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from pilothouse.fleet.model import AgentProfile, Task, TaskReport, TaskStatus
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


def step_run(task: Task) -> pb.StepRun:
    """A task as an agent gets it, secret values included."""
    args = Struct()
    json_format.ParseDict(dict(task.args), args)
    message = pb.StepRun(
        step_run_id=task.id,
        pipeline_id=task.pipeline_id,
        pipeline_run_id=task.run_id,
        job_id=task.job_id,
        job_name=task.job_name,
        step_name=task.name,
        step_index=task.index,
        uses=task.uses,
        action=task.action,
        args=args,
        env=task.env,
        workspace=task.workspace,
        timeout=task.timeout,
        image=task.image,
        # An agent that exports them must not put a bare secret over a variable of that name.
        secrets={name: value for name, value in task.secrets.items() if name not in task.env},
        continue_on_error=task.continue_on_error,
        run_on_agent=True,
        attempt=task.attempt,
        last_in_job=task.last_in_job,
        mask=list(dict.fromkeys([*task.secrets.values(), *task.mask])),
        fresh_workspace=task.fresh_workspace,
        pipeline_name=task.pipeline_name,
        branch=task.branch,
        commit_sha=task.commit_sha,
        tag=task.tag,
        event=task.event,
        background=task.background,
    )
    if task.checkout is not None:
        message.checkout.url = task.checkout.url
        message.checkout.sha256 = task.checkout.sha256
        message.checkout.size = task.checkout.size
        for pack in task.checkout.packs:
            message.checkout.packs.add(
                url=pack.url, sha256=pack.sha256, size=pack.size, repository=pack.repository
            )
    return message


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
