"""Encodes step attempts as ``agent.v1.StepRun`` messages for gRPC agents (arcentra-wire.txt); pure."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from pilothouse.engine.step_payload import StepPayload
from pilothouse.fleet.model import Task
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.durations import duration_text


def step_run(task: Task) -> pb.StepRun:
    """The message for the agent, which includes secret values."""
    step = task.payload
    assert isinstance(step, StepPayload), f"a task of kind {task.kind} has the payload of a step"
    args = Struct()
    json_format.ParseDict(dict(step.args), args)
    message = pb.StepRun(
        step_run_id=task.id,
        pipeline_id=step.pipeline_id,
        pipeline_run_id=step.run_id,
        job_id=step.job_id,
        job_name=step.job_name,
        step_name=step.name,
        step_index=step.index,
        uses=step.uses,
        action=step.action,
        args=args,
        env=step.env,
        workspace=step.workspace,
        timeout=duration_text(task.timeout) if task.timeout else "",
        image=step.image,
        # An agent that exports secrets must not override a variable of the same name.
        secrets={name: value for name, value in task.secrets.items() if name not in step.env},
        continue_on_error=step.continue_on_error,
        run_on_agent=True,
        attempt=step.attempt,
        last_in_job=step.last_in_job,
        mask=list(dict.fromkeys([*task.secrets.values(), *task.mask])),
        fresh_workspace=step.fresh_workspace,
        pipeline_name=step.pipeline_name,
        branch=step.branch,
        commit_sha=step.commit_sha,
        tag=step.tag,
        event=step.event,
        background=step.background,
    )
    if step.checkout is not None:
        message.checkout.url = step.checkout.url
        message.checkout.sha256 = step.checkout.sha256
        message.checkout.size = step.checkout.size
        for pack in step.checkout.packs:
            message.checkout.packs.add(
                url=pack.url, sha256=pack.sha256, size=pack.size, repository=pack.repository
            )
    return message
