"""Run entries as messages of each contract; stateless.

* :class:`RunMessages`: the workflow run stream of the Stella page.
* :class:`StepLog`, :class:`StepStatus`: the two Arcentra channels of ``/api/v1/ws``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from pilothouse.journal import Cursor, Entry, Frame
from pilothouse.wire import entries

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

Message = dict[str, Any]


def rfc3339(at: int) -> str:
    """Milliseconds since 1970 as RFC 3339 UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Framing:
    """How messages become bytes on one transport; the same for every format."""

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch

    def frame(self, message: bytes, event: str, cursor: str) -> bytes:
        """A JSON object as text of a WebSocket message (``ws``, with its cursor in ``ws+cursor``) or an SSE event."""
        if self.name == "ws":
            return message
        if self.name == "ws+cursor":
            return b'%b,"cursor":"%b"}' % (message[:-1], cursor.encode())
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor.encode(), event.encode(), message)

    def frames(self, entry: Entry, messages: list[tuple[str, bytes]], *, lines: bool) -> tuple[Frame, ...]:
        """Frame an entry's messages (event name, JSON). Where they are its ``lines``, each counts as one part."""
        last = len(messages)
        after = Cursor(entry.offset + 1).text(self.epoch)
        framed = []
        for number, (event, message) in enumerate(messages, start=1):
            k = entry.base + number if lines else number
            cursor = after if number == last else Cursor(entry.offset, k).text(self.epoch)
            framed.append(Frame(self.frame(message, event, cursor), k))
        return tuple(framed)


class RunMessages:
    """``/api/v1/workflow-runs/{id}/stream`` (Stella page, decisions.md)."""

    def __init__(self, framing: Framing) -> None:
        self.key = f"run/{framing.name}"
        self._framing = framing

    def ends(self, entry: Entry) -> bool:
        """After ``workflow_completed`` the stream closes."""
        return entry.type == entries.RUN_COMPLETED

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The entry's messages; none for types that the page does not know."""
        if entry.type == entries.STEP_LOGGED:
            return self._framing.frames(entry, _step_logs(entry, entry.body), lines=True)
        build = _RUN_MESSAGES.get(entry.type)
        if build is None:
            return ()
        messages = [(m["type"], orjson.dumps(m)) for m in build(entry, entry.body)]
        return self._framing.frames(entry, messages, lines=False)


def _step_started(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_started",
        "nodeId": body["node"],
        "stepType": body["uses"],
        "timestamp": rfc3339(entry.at),
    }


def _step_progress(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_progress",
        "nodeId": body["node"],
        "progress": body["percent"],
        "message": body["message"],
    }


def _step_logs(entry: Entry, body: Message) -> list[tuple[str, bytes]]:
    # Of most messages there are few, of these most: all but the line itself is encoded once for the chunk.
    head = b'{"type":"step_log","nodeId":%b,"line":' % orjson.dumps(body["node"])
    stamp = rfc3339(entry.at).encode()
    tails: dict[str, bytes] = {}
    found = []
    for line, level, _stream in lines_of(body):
        tail = tails.get(level)
        if tail is None:
            tail = tails[level] = b',"level":%b,"timestamp":"%b"}' % (orjson.dumps(level), stamp)
        found.append(("step_log", head + orjson.dumps(line) + tail))
    return found


def _log_missed(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_log",
        "nodeId": body["node"],
        "line": f"[{body['message']}]",
        "level": "warn",
        "timestamp": rfc3339(entry.at),
    }


def _step_completed(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_completed",
        "nodeId": body["node"],
        "status": body["status"],
        "outputs": body["outputs"],
        "duration": body["duration"] / 1000,
        "timestamp": rfc3339(entry.at),
    }


def _workflow_completed(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "workflow_completed",
        "status": body["status"],
        "duration": body["duration"] / 1000,
        "outputs": body["outputs"],
        "timestamp": rfc3339(entry.at),
    }


_RUN_MESSAGES: dict[str, Callable[[Entry, Message], Iterator[Message]]] = {
    entries.STEP_STARTED: _step_started,
    entries.STEP_PROGRESSED: _step_progress,
    entries.STEP_LOG_MISSED: _log_missed,
    entries.STEP_COMPLETED: _step_completed,
    entries.RUN_COMPLETED: _workflow_completed,
}


def lines_of(body: Message) -> Iterator[tuple[str, str, str]]:
    """The lines of a chunk with their level and stream."""
    stderr = frozenset(body.get("stderr", ()))
    levels = body.get("levels", {})
    for index, line in enumerate(body["lines"]):
        yield line, levels.get(str(index), "info"), "stderr" if index in stderr else "stdout"


# -- Arcentra -------------------------------------------------------------------------------------------


def channel_params(body: Message) -> Message:
    """The ``params`` that name an attempt on ``/api/v1/ws``."""
    return {
        "pipelineId": body["pipeline_id"] or body["run_id"],
        "jobId": body["job_id"],
        "stepRunId": body["step_run_id"],
    }


class StepLog:
    """``channel_log``: one message a line when live, a chunk of up to 200 when ``batched`` (history)."""

    def __init__(self, framing: Framing, *, batched: bool) -> None:
        self.key = f"log/{framing.name}/{'batched' if batched else 'live'}"
        self._framing = framing
        self._batched = batched

    def ends(self, entry: Entry) -> bool:
        """Live, the attempt's last word; its history has late lines as well (docs/decisions/0005)."""
        return entry.type == entries.ATTEMPT_COMPLETED and not self._batched

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """Lines as ``Log`` objects."""
        if entry.type != entries.STEP_LOGGED:
            return ()
        logs = list(_logs(entry))
        envelope = {"channel": "channel_log", "params": channel_params(entry.body)}
        if self._batched:
            messages = [("log_chunk", orjson.dumps({**envelope, "type": "log_chunk", "data": logs}))]
        else:
            messages = [("log", orjson.dumps({**envelope, "type": "log", "data": log})) for log in logs]
        return self._framing.frames(entry, messages, lines=not self._batched)


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
        """Once the attempt is over there is nothing more."""
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
