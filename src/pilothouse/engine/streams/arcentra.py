"""The log and status channels of the Arcentra page, ``/api/v1/ws``."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from pilothouse.engine.streams.framing import Framing, Message, lines_of
from pilothouse.journal import Entry, Frame
from pilothouse.wire import entries
from pilothouse.wire.rest import streams as messages
from pilothouse.wire.rest.base import Answer

STATUS_NUMBERS = {
    "pending": 1,
    "queued": 2,
    "running": 3,
    "succeeded": 4,
    "failed": 5,
    "cancelled": 6,
    "timed_out": 7,
    "skipped": 8,
}
LIFECYCLES = {
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "timed_out": "timeout",
    "skipped": "skipped",
}


MESSAGES: dict[str, type[Answer]] = {
    "subscribed": messages.ChannelState,
    "log_chunk": messages.LogBatch,
    "history_done": messages.ChannelState,
    "log": messages.LiveLog,
    "status_snapshot": messages.StatusSnapshot,
    "status": messages.StatusChanged,
    "unsubscribed": messages.ChannelState,
    "error": messages.ChannelError,
}
"""The models of the messages of both channels, by type."""


def channel_params(body: Message) -> Message:
    """The ``params`` that name an attempt on ``/api/v1/ws``."""
    return {
        "pipelineId": body["pipeline_id"] or body["run_id"],
        "jobId": body["job_id"],
        "stepRunId": body["step_run_id"],
    }


class StepLog:
    """``channel_log``: one message per line (live), or per chunk of up to 200 lines if ``batched`` (history)."""

    def __init__(self, framing: Framing, *, batched: bool) -> None:
        self.key = f"log/{framing.name}/{'batched' if batched else 'live'}"
        self._framing = framing
        self._batched = batched

    def ends(self, entry: Entry) -> bool:
        """Live: at the end of the attempt. Its history may contain later lines (docs/decisions/0005)."""
        return entry.type == entries.ATTEMPT_COMPLETED and not self._batched

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """Lines as ``Log`` objects."""
        if entry.type != entries.STEP_LOGGED:
            return ()
        logs = list(_logs(entry))
        envelope = {"channel": "channel_log", "params": channel_params(entry.body)}
        if self._batched:
            found = [("log_chunk", orjson.dumps({**envelope, "type": "log_chunk", "data": logs}))]
        else:
            found = [("log", orjson.dumps({**envelope, "type": "log", "data": log})) for log in logs]
        return self._framing.frames(entry, found, lines=not self._batched)


def _logs(entry: Entry) -> Iterator[Message]:
    body, seconds = entry.body, entry.at // 1000
    number = body["first"]
    for line, level, stream in lines_of(body):
        yield {
            "step_run_id": body["step_run_id"],
            "timestamp": seconds,
            "line_number": number,
            "level": level,
            "content": line,
            "stream": stream,
            "plugin_name": body.get("plugin") or body["uses"],
            "agent_id": body["agent_id"],
        }
        number += 1


class StepStatus:
    """``channel_status``: the live events of one attempt."""

    def __init__(self, framing: Framing) -> None:
        self.key = f"status/{framing.name}"
        self._framing = framing

    def ends(self, entry: Entry) -> bool:
        """At the end of the attempt."""
        return entry.type == entries.ATTEMPT_COMPLETED

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """``status`` messages (decisions.md: ``arcentra.<object>.<lifecycle>``)."""
        body = entry.body
        if entry.type == entries.STEP_QUEUED:
            lifecycle = "queued"
        elif entry.type == entries.STEP_STARTED:
            lifecycle = "started"
        elif entry.type == entries.ATTEMPT_COMPLETED:
            lifecycle = LIFECYCLES[body["status"]]
        else:
            return ()
        params = channel_params(body)
        subject = f"pipeline:{params['pipelineId']}:job:{params['jobId']}:step:{params['stepRunId']}"
        event = f"arcentra.step.{lifecycle}"
        data = {**params, "eventType": event, "status": lifecycle, "subject": subject}
        data["raw"] = {"type": event, "data": dict(body), "subject": subject}
        message = {"channel": "channel_status", "type": "status", "params": params, "data": data}
        return self._framing.frames(entry, [("status", orjson.dumps(message))], lines=False)
