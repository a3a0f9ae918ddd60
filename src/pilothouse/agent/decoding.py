"""Converts `agent.v1.StepRun` messages to executor tasks (arcentra-wire.txt, package agent.v1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from pilothouse.agent.errors import StepImpossible
from pilothouse.agent.executors.base import StepTask
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.durations import DurationError, parse_duration


def step_task(message: pb.StepRun, workspace: Path) -> StepTask:
    """Raises StepImpossible for an invalid timeout."""
    return StepTask(
        step_run_id=message.step_run_id,
        run_id=message.pipeline_run_id,
        job_id=message.job_id,
        job_name=message.job_name,
        step_name=message.step_name,
        uses=message.uses,
        action=message.action,
        args=plain(message.args),
        env=dict(message.env),
        secrets=dict(message.secrets),
        mask=tuple(message.mask),
        workspace=workspace,
        timeout=timeout(message.timeout),
        attempt=message.attempt or 1,
        workspace_id=workspace_id(message),
        pipeline_name=message.pipeline_name,
        branch=message.branch,
        commit_sha=message.commit_sha,
        tag=message.tag,
        event=message.event,
    )


def workspace_id(message: pb.StepRun) -> str:
    """The id of the step's workspace on this agent."""
    return message.workspace or message.job_id


def timeout(text: str) -> float | None:
    """Seconds of `30s`, `5m`, `1h30m`; None for an empty text and for zero. Raises StepImpossible."""
    if not text:
        return None
    try:
        return parse_duration(text, most=math.inf).seconds or None
    except DurationError:
        raise StepImpossible(f"timeout {text[:40]!r} is not a duration such as 30s, 5m or 1h30m") from None


def plain(struct: Struct) -> dict[str, Any]:
    """A Struct as JSON values. Its numbers are all floats; whole numbers are converted to int."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None
