"""The workflow run stream of the Stella page, ``/api/v1/workflow-runs/{id}/stream``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import orjson

from pilothouse.engine.streams.framing import Framing, Message, lines_of
from pilothouse.journal import Entry, Frame
from pilothouse.wire import entries
from pilothouse.wire.rest import streams as messages
from pilothouse.wire.rest.base import Answer
from pilothouse.wire.times import rfc3339_ms


class RunMessages:
    """``/api/v1/workflow-runs/{id}/stream`` (Stella page, decisions.md)."""

    def __init__(self, framing: Framing, reopened: int = 0) -> None:
        """``reopened``: the offset at which an ended run was opened again; earlier ends do not end the stream."""
        self.key = f"run/{framing.name}"
        self._framing = framing
        self._reopened = reopened

    def ends(self, entry: Entry) -> bool:
        """At ``workflow_completed``."""
        return entry.type == entries.RUN_COMPLETED and entry.offset > self._reopened

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The entry's messages; none for types that are not part of the contract."""
        if entry.type == entries.STEP_LOGGED:
            return self._framing.frames(entry, _step_logs(entry, entry.body), lines=True)
        build = _RUN_MESSAGES.get(entry.type)
        if build is None:
            return ()
        found = [(m["type"], orjson.dumps(m)) for m in build(entry, entry.body)]
        return self._framing.frames(entry, found, lines=False)


def _step_started(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_started",
        "nodeId": body["node"],
        "stepType": body["uses"],
        "timestamp": rfc3339_ms(entry.at),
    }


def _step_progress(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_progress",
        "nodeId": body["node"],
        "progress": body["percent"],
        "message": body["message"],
    }


def _step_logs(entry: Entry, body: Message) -> list[tuple[str, bytes]]:
    # Log lines are by far the most frequent messages: everything but the line is encoded once per chunk.
    head = b'{"type":"step_log","nodeId":%b,"line":' % orjson.dumps(body["node"])
    stamp = rfc3339_ms(entry.at).encode()
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
        "timestamp": rfc3339_ms(entry.at),
    }


def _step_completed(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "step_completed",
        "nodeId": body["node"],
        "status": body["status"],
        "outputs": body["outputs"],
        "duration": body["duration"] / 1000,
        "timestamp": rfc3339_ms(entry.at),
    }


def _workflow_completed(entry: Entry, body: Message) -> Iterator[Message]:
    yield {
        "type": "workflow_completed",
        "status": body["status"],
        "duration": body["duration"] / 1000,
        "outputs": body["outputs"],
        "timestamp": rfc3339_ms(entry.at),
    }


MESSAGES: dict[str, type[Answer]] = {
    "step_started": messages.StepStarted,
    "step_progress": messages.StepProgress,
    "step_log": messages.StepLog,
    "step_completed": messages.StepCompleted,
    "workflow_completed": messages.WorkflowCompleted,
}
"""The models of this stream's messages, by type."""

_RUN_MESSAGES: dict[str, Callable[[Entry, Message], Iterator[Message]]] = {
    entries.STEP_STARTED: _step_started,
    entries.STEP_PROGRESSED: _step_progress,
    entries.STEP_LOG_MISSED: _log_missed,
    entries.STEP_COMPLETED: _step_completed,
    entries.RUN_COMPLETED: _workflow_completed,
}
