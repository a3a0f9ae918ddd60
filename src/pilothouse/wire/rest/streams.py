"""Messages of the streams: the journal (CloudEvents), the run stream (Stella page), ``/api/v1/ws`` (Arcentra page).

Their schemas are in ``/asyncapi.json``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Time

_AT = "2026-01-10T14:23:45.000Z"
_RUN = "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"
_STEP_RUN = "019a7b1e-7000-7a00-8a51-0c4b8f1f2a10"
_PARAMS = {
    "pipelineId": "019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10",
    "jobId": "019a7b1e-6c0b-7000-8a51-0c4b8f1f2a10",
    "stepRunId": _STEP_RUN,
}


class Message(Answer):
    """A message of a stream; ``cursor``: where to resume after it, only if the client asked with a cursor."""

    cursor: str = ""


class CloudEvent(Answer):
    """A journal entry as a CloudEvent 1.0: ``source`` is its stream, ``type`` its type, ``data`` its body."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str = ""
    time: Time
    datacontenttype: Literal["application/json"]
    data: dict[str, Any]

    example: ClassVar[Any] = {
        "specversion": "1.0",
        "id": "5f2c9d1e.1041.0",
        "source": f"/run/{_RUN}",
        "type": "step.started",
        "subject": _STEP_RUN,
        "time": _AT,
        "datacontenttype": "application/json",
        "data": {
            "v": 1,
            "run_id": _RUN,
            "kind": "pipeline",
            "name": "hello",
            "pipeline_id": _PARAMS["pipelineId"],
            "project": "019a7b1e-0000-7000-8000-000000000001",
            "job_id": _PARAMS["jobId"],
            "job": "build",
            "step_id": "019a7b1e-6c0c-7000-8a51-0c4b8f1f2a10",
            "step": "compile",
            "node": "compile",
            "uses": "shell",
            "action": "command",
            "index": 0,
            "step_run_id": _STEP_RUN,
            "attempt": 1,
            "previous": "queued",
            "agent_id": "local",
        },
    }


# -- the run stream (Stella page) --------------------------------------------------------------------------


class StepStarted(Message):
    """A step has started; ``nodeId``: its name, after its job's if there are several; ``stepType``: its ``uses``."""

    type: Literal["step_started"]
    nodeId: str
    stepType: str
    timestamp: Time

    example: ClassVar[Any] = {
        "type": "step_started",
        "nodeId": "compile",
        "stepType": "shell",
        "timestamp": _AT,
    }


class StepProgress(Message):
    """How far a step is, in percent."""

    type: Literal["step_progress"]
    nodeId: str
    progress: Annotated[int, Field(ge=0, le=100)]
    message: str

    example: ClassVar[Any] = {
        "type": "step_progress",
        "nodeId": "compile",
        "progress": 50,
        "message": "3 of 6",
    }


class StepLog(Message):
    """One line of a step's log."""

    type: Literal["step_log"]
    nodeId: str
    line: str
    level: str
    timestamp: Time

    example: ClassVar[Any] = {
        "type": "step_log",
        "nodeId": "compile",
        "line": "compiling",
        "level": "info",
        "timestamp": _AT,
    }


class StepCompleted(Message):
    """A step has ended; ``duration`` in seconds."""

    type: Literal["step_completed"]
    nodeId: str
    status: str
    outputs: dict[str, Any]
    duration: Annotated[float, Field(ge=0)]
    timestamp: Time

    example: ClassVar[Any] = {
        "type": "step_completed",
        "nodeId": "compile",
        "status": "succeeded",
        "outputs": {"version": "1.5"},
        "duration": 5.2,
        "timestamp": _AT,
    }


class WorkflowCompleted(Message):
    """The run has ended; the last message of its stream. ``duration`` in seconds."""

    type: Literal["workflow_completed"]
    status: str
    duration: Annotated[float, Field(ge=0)]
    outputs: dict[str, Any]
    timestamp: Time

    example: ClassVar[Any] = {
        "type": "workflow_completed",
        "status": "succeeded",
        "duration": 125.5,
        "outputs": {},
        "timestamp": _AT,
    }


class Heartbeat(Message):
    """Answer it with ``{"type":"pong"}``, or the connection is closed with 4408."""

    type: Literal["heartbeat"]
    timestamp: Time

    example: ClassVar[Any] = {"type": "heartbeat", "timestamp": _AT}


class StreamError(Message):
    """Why the stream ends; its close code follows."""

    type: Literal["error"]
    code: str
    message: str
    timestamp: Time

    example: ClassVar[Any] = {
        "type": "error",
        "code": "not_found",
        "message": f"no run with id '{_RUN}' exists",
        "timestamp": _AT,
    }


class Auth(Answer):
    """The first message of a client without a token in its URL or headers, within 10 seconds."""

    type: Literal["auth"]
    token: str

    example: ClassVar[Any] = {"type": "auth", "token": "pilot_4f1c…"}


class Pong(Answer):
    """The answer to a heartbeat."""

    type: Literal["pong"]

    example: ClassVar[Any] = {"type": "pong"}


# -- /api/v1/ws (Arcentra page) ----------------------------------------------------------------------------

ChannelName = Literal["channel_log", "channel_status"]


class StepRunParams(Answer):
    """The attempt of a step that a subscription is about."""

    pipelineId: str
    jobId: str
    stepRunId: str


class SubscriptionParams(StepRunParams):
    """The same in a request; ``cursor``: where to begin; messages then have cursors."""

    cursor: str = ""


class ChannelRequest(Answer):
    """A request to subscribe, or to end a subscription."""

    channel: ChannelName
    action: Literal["subscribe", "unsubscribe"] = "subscribe"
    params: SubscriptionParams

    example: ClassVar[Any] = {"channel": "channel_log", "action": "subscribe", "params": _PARAMS}


class ChannelState(Message):
    """A state of a subscription: it is open, its history is complete, or it has ended."""

    channel: ChannelName
    type: Literal["subscribed", "history_done", "unsubscribed"]
    params: StepRunParams
    data: None

    example: ClassVar[Any] = {
        "channel": "channel_log",
        "type": "subscribed",
        "params": _PARAMS,
        "data": None,
    }


class Log(Answer):
    """A line of a log; ``timestamp`` in Unix seconds; ``line_number`` counts from 1."""

    step_run_id: str
    timestamp: Count
    line_number: Annotated[int, Field(ge=1)]
    level: str
    content: str
    stream: Literal["stdout", "stderr"]
    plugin_name: str
    agent_id: str

    example: ClassVar[Any] = {
        "step_run_id": _STEP_RUN,
        "timestamp": 1768055025,
        "line_number": 1,
        "level": "info",
        "content": "compiling",
        "stream": "stdout",
        "plugin_name": "shell",
        "agent_id": "local",
    }


class LogBatch(Message):
    """Up to 200 lines of the history."""

    channel: Literal["channel_log"]
    type: Literal["log_chunk"]
    params: StepRunParams
    data: Annotated[list[Log], Field(max_length=200)]

    example: ClassVar[Any] = {
        "channel": "channel_log",
        "type": "log_chunk",
        "params": _PARAMS,
        "data": [Log.example],
    }


class LiveLog(Message):
    """A new line."""

    channel: Literal["channel_log"]
    type: Literal["log"]
    params: StepRunParams
    data: Log

    example: ClassVar[Any] = {
        "channel": "channel_log",
        "type": "log",
        "params": _PARAMS,
        "data": Log.example,
    }


class StepRunSnapshot(StepRunParams):
    """The current state of an attempt; ``status``: steprun.v1.StepRunStatus; ``duration`` in milliseconds."""

    status: Annotated[int, Field(ge=1, le=8)]
    startTime: Time | None
    endTime: Time | None
    duration: Count


class StatusSnapshot(Message):
    """The first message of a status subscription."""

    channel: Literal["channel_status"]
    type: Literal["status_snapshot"]
    params: StepRunParams
    data: StepRunSnapshot

    example: ClassVar[Any] = {
        "channel": "channel_status",
        "type": "status_snapshot",
        "params": _PARAMS,
        "data": {**_PARAMS, "status": 3, "startTime": _AT, "endTime": None, "duration": 1234},
    }


class RawEvent(Answer):
    """The event as it is in the journal."""

    type: str
    data: dict[str, Any]
    subject: str


class StepRunEvent(StepRunParams):
    """A change of an attempt: ``arcentra.step.<status>``."""

    eventType: str
    status: str
    subject: str
    raw: RawEvent


class StatusChanged(Message):
    """A change of the attempt."""

    channel: Literal["channel_status"]
    type: Literal["status"]
    params: StepRunParams
    data: StepRunEvent

    example: ClassVar[Any] = {
        "channel": "channel_status",
        "type": "status",
        "params": _PARAMS,
        "data": {
            **_PARAMS,
            "eventType": "arcentra.step.started",
            "status": "started",
            "subject": "pipeline:019a7b1e:job:019a7b1f:step:019a7b20",
            "raw": {
                "type": "arcentra.step.started",
                "data": {"step": "compile"},
                "subject": "pipeline:019a7b1e:job:019a7b1f:step:019a7b20",
            },
        },
    }


class ChannelError(Message):
    """Why a request was refused; with ``code`` and ``message``, the connection is closed after it."""

    channel: str
    type: Literal["error"]
    params: dict[str, Any]
    data: None
    error: str
    code: str = ""
    message: str = ""
    timestamp: str = ""

    example: ClassVar[Any] = {
        "channel": "channel_log",
        "type": "error",
        "params": _PARAMS,
        "data": None,
        "error": "pipelineId, jobId and stepRunId are required",
    }
