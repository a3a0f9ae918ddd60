"""Journal entries as messages: keys, order and values of the contract pages, to the letter."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.model import Attempt, Status
from pilothouse.engine.sockets.arcentra import snapshot
from pilothouse.engine.streams.arcentra import STATUS_NUMBERS, StepLog, StepStatus
from pilothouse.engine.streams.framing import Framing
from pilothouse.engine.streams.stella import RunMessages
from pilothouse.journal import Cursor, Entry, WireFormat
from pilothouse.server.events import CloudEvents
from pilothouse.wire import entries
from pilothouse.wire.times import rfc3339_ms

EPOCH = "0a1b2c3d"
AT = 1_768_055_025_000
STAMP = "2026-01-10T14:23:45.000Z"
STEP = {
    "v": 1,
    "run_id": "run-1",
    "kind": "pipeline",
    "name": "build",
    "pipeline_id": "pipe-1",
    "project": "p",
    "job_id": "job-1",
    "job": "test",
    "step_id": "step-1",
    "step": "compile",
    "node": "test/compile",
    "uses": "security-gate",
    "action": "run",
    "index": 0,
    "step_run_id": "try-1",
    "attempt": 1,
}
RUN = {key: STEP[key] for key in ("v", "run_id", "kind", "name", "pipeline_id", "project")}
PARAMS = {"pipelineId": "pipe-1", "jobId": "job-1", "stepRunId": "try-1"}


def entry(
    type: str, body: dict[str, Any], *, offset: int = 41, stream: str = "run/run-1", subject: str = ""
) -> Entry:
    return Entry(offset, stream, subject, type, AT, "project/p", orjson.dumps(body))


def messages(fmt: WireFormat, told: Entry) -> list[dict[str, Any]]:
    return [json.loads(frame.data) for frame in fmt.encode(told)]


def run_messages(told: Entry) -> list[dict[str, Any]]:
    return messages(RunMessages(Framing("ws", EPOCH)), told)


LOGGED = entry(
    entries.STEP_LOGGED,
    {
        **STEP,
        "first": 9,
        "lines": ["one", "two", "drei ✓"],
        "agent_id": "a1",
        "stderr": [1],
        "levels": {"2": "error"},
    },
    subject="try-1",
)

STELLA: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        entries.STEP_STARTED,
        {**STEP, "previous": "queued", "agent_id": "a1"},
        [{"type": "step_started", "nodeId": "test/compile", "stepType": "security-gate", "timestamp": STAMP}],
    ),
    (
        entries.STEP_PROGRESSED,
        {**STEP, "percent": 50, "message": "Deploying to target 3/6"},
        [
            {
                "type": "step_progress",
                "nodeId": "test/compile",
                "progress": 50,
                "message": "Deploying to target 3/6",
            }
        ],
    ),
    (
        entries.STEP_COMPLETED,
        {**STEP, "status": "succeeded", "previous": "running", "outputs": {"highCount": 3}, "duration": 5200},
        [
            {
                "type": "step_completed",
                "nodeId": "test/compile",
                "status": "succeeded",
                "outputs": {"highCount": 3},
                "duration": 5.2,
                "timestamp": STAMP,
            }
        ],
    ),
    (
        entries.RUN_COMPLETED,
        {**RUN, "status": "failed", "duration": 125_500, "outputs": {}, "reason": "", "counts": {}},
        [
            {
                "type": "workflow_completed",
                "status": "failed",
                "duration": 125.5,
                "outputs": {},
                "timestamp": STAMP,
            }
        ],
    ),
    (
        entries.STEP_LOG_MISSED,
        {**STEP, "message": "log batches 3 to 4 of agent a1 never arrived", "expected_seq": 3, "seq": 5},
        [
            {
                "type": "step_log",
                "nodeId": "test/compile",
                "line": "[log batches 3 to 4 of agent a1 never arrived]",
                "level": "warn",
                "timestamp": STAMP,
            }
        ],
    ),
]


@pytest.mark.parametrize(("type", "body", "expected"), STELLA)
def test_the_run_stream_is_the_page(type: str, body: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    found = run_messages(entry(type, body))
    assert found == expected
    assert [list(message) for message in found] == [list(message) for message in expected], (
        "in the page's order"
    )


def test_log_lines_are_one_message_each() -> None:
    shown = run_messages(LOGGED)
    assert shown == [
        {"type": "step_log", "nodeId": "test/compile", "line": line, "level": level, "timestamp": STAMP}
        for line, level in (("one", "info"), ("two", "info"), ("drei ✓", "error"))
    ]


@pytest.mark.parametrize(
    "type",
    [
        entries.RUN_CREATED,
        entries.RUN_STARTED,
        entries.RUN_CANCELLING,
        entries.JOB_STARTED,
        entries.JOB_RESTARTED,
        entries.JOB_COMPLETED,
        entries.STEP_QUEUED,
        entries.STEP_WAITING,
        entries.STEP_OUTPUT,
        entries.ATTEMPT_COMPLETED,
        entries.AGENT_EVENT,
        "of.the.future",
    ],
)
def test_the_run_stream_shows_nothing_that_the_page_does_not_know(type: str) -> None:
    assert run_messages(entry(type, dict(STEP))) == []


def test_only_the_end_of_the_run_ends_its_stream() -> None:
    fmt = RunMessages(Framing("ws", EPOCH))
    assert fmt.ends(entry(entries.RUN_COMPLETED, RUN))
    assert not fmt.ends(entry(entries.JOB_COMPLETED, RUN))
    assert not fmt.ends(entry(entries.STEP_COMPLETED, STEP))


def test_a_cursor_is_in_a_message_only_if_asked_for() -> None:
    plain = RunMessages(Framing("ws", EPOCH)).encode(LOGGED)
    asked = RunMessages(Framing("ws+cursor", EPOCH)).encode(LOGGED)
    cursors = [json.loads(frame.data).pop("cursor") for frame in asked]
    assert cursors == [f"{EPOCH}.41.1", f"{EPOCH}.41.2", f"{EPOCH}.42.0"]
    for with_cursor, without in zip(asked, plain, strict=True):
        told = json.loads(with_cursor.data)
        del told["cursor"]
        assert told == json.loads(without.data)
    assert [frame.k for frame in asked] == [1, 2, 3]


def test_a_cut_chunk_counts_on_from_the_cut() -> None:
    cut = RunMessages(Framing("ws+cursor", EPOCH)).encode(LOGGED.tail(1))
    assert [(json.loads(f.data)["line"], json.loads(f.data)["cursor"]) for f in cut] == [
        ("two", f"{EPOCH}.41.2"),
        ("drei ✓", f"{EPOCH}.42.0"),
    ]


def test_sse_events_have_id_event_and_one_line_of_data() -> None:
    told = entry(
        entries.STEP_PROGRESSED, {**STEP, "percent": 1, "message": "two\nlines\r\nevent: forged\n\n"}
    )
    [frame] = RunMessages(Framing("sse", EPOCH)).encode(told)
    id_line, event, data, *end = frame.data.decode().split("\n")
    assert (id_line, event, end) == (f"id: {EPOCH}.42.0", "event: step_progress", ["", ""])
    assert json.loads(data.removeprefix("data: "))["message"] == "two\nlines\r\nevent: forged\n\n"
    assert "\r" not in frame.data.decode()


# -- Arcentra ---------------------------------------------------------------------------------------------


def log(number: int, content: str, level: str, stream: str) -> dict[str, Any]:
    return {
        "step_run_id": "try-1",
        "timestamp": AT // 1000,
        "line_number": number,
        "level": level,
        "content": content,
        "stream": stream,
        "plugin_name": "security-gate",
        "agent_id": "a1",
    }


LOGS = [
    log(9, "one", "info", "stdout"),
    log(10, "two", "info", "stderr"),
    log(11, "drei ✓", "error", "stdout"),
]


def test_a_log_chunk_is_a_list_of_logs() -> None:
    shown = messages(StepLog(Framing("ws", EPOCH), batched=True), LOGGED)
    assert shown == [{"channel": "channel_log", "params": PARAMS, "type": "log_chunk", "data": LOGS}]


def test_a_live_log_is_one_log() -> None:
    shown = messages(StepLog(Framing("ws", EPOCH), batched=False), LOGGED)
    assert shown == [{"channel": "channel_log", "params": PARAMS, "type": "log", "data": one} for one in LOGS]


def test_a_cursor_behind_a_chunk_is_behind_all_its_lines() -> None:
    [frame] = StepLog(Framing("ws+cursor", EPOCH), batched=True).encode(LOGGED)
    assert json.loads(frame.data)["cursor"] == f"{EPOCH}.42.0"


def test_the_plugin_that_wrote_a_line_is_named() -> None:
    told = entry(entries.STEP_LOGGED, {**STEP, "first": 1, "lines": ["x"], "agent_id": "a1", "plugin": "git"})
    [shown] = messages(StepLog(Framing("ws", EPOCH), batched=False), told)
    assert shown["data"]["plugin_name"] == "git"


def test_a_run_without_a_pipeline_stands_in_for_it() -> None:
    told = entry(entries.STEP_QUEUED, {**STEP, "pipeline_id": "", "previous": "pending", "reason": ""})
    [shown] = messages(StepStatus(Framing("ws", EPOCH)), told)
    assert shown["params"]["pipelineId"] == "run-1"


LIFECYCLES = [
    (entries.STEP_QUEUED, {"previous": "pending", "reason": ""}, "queued"),
    (entries.STEP_STARTED, {"previous": "queued", "agent_id": "a1"}, "started"),
    (entries.ATTEMPT_COMPLETED, {"status": "succeeded"}, "completed"),
    (entries.ATTEMPT_COMPLETED, {"status": "failed"}, "failed"),
    (entries.ATTEMPT_COMPLETED, {"status": "cancelled"}, "cancelled"),
    (entries.ATTEMPT_COMPLETED, {"status": "timed_out"}, "timeout"),
    (entries.ATTEMPT_COMPLETED, {"status": "skipped"}, "skipped"),
]


@pytest.mark.parametrize(("type", "more", "lifecycle"), LIFECYCLES)
def test_a_status_is_an_event_of_the_steps_life(type: str, more: dict[str, Any], lifecycle: str) -> None:
    fmt = StepStatus(Framing("ws", EPOCH))
    told = entry(type, {**STEP, **more}, subject="try-1")
    subject = "pipeline:pipe-1:job:job-1:step:try-1"
    event = f"arcentra.step.{lifecycle}"
    assert messages(fmt, told) == [
        {
            "channel": "channel_status",
            "type": "status",
            "params": PARAMS,
            "data": {
                **PARAMS,
                "eventType": event,
                "status": lifecycle,
                "subject": subject,
                "raw": {"type": event, "data": {**STEP, **more}, "subject": subject},
            },
        }
    ]
    assert fmt.ends(told) == (type == entries.ATTEMPT_COMPLETED)


def test_status_numbers_are_those_of_decisions() -> None:
    assert STATUS_NUMBERS == {
        "pending": 1,
        "queued": 2,
        "running": 3,
        "succeeded": 4,
        "failed": 5,
        "cancelled": 6,
        "timed_out": 7,
        "skipped": 8,
    }
    assert set(STATUS_NUMBERS) == {status.value for status in Status}


@pytest.mark.parametrize(
    ("attempt", "status", "start", "end", "duration"),
    [
        (Attempt("try-1", "s", 1, Status.QUEUED, queued_at=AT), 2, None, None, 0),
        (Attempt("try-1", "s", 1, Status.RUNNING, started_at=AT), 3, STAMP, None, 5000),
        (
            Attempt("try-1", "s", 1, Status.TIMED_OUT, started_at=AT, finished_at=AT + 1234),
            7,
            STAMP,
            "2026-01-10T14:23:46.234Z",
            1234,
        ),
        (Attempt("try-1", "s", 1, Status.CANCELLED, finished_at=AT), 6, None, STAMP, 0),
    ],
)
def test_the_snapshot_has_the_pages_keys(
    attempt: Attempt, status: int, start: str | None, end: str | None, duration: int
) -> None:
    times = {"startTime": start, "endTime": end, "duration": duration}
    assert snapshot(PARAMS, attempt, AT + 5000) == {**PARAMS, "status": status, **times}


# -- CloudEvents ------------------------------------------------------------------------------------------


def test_cloud_events_are_structured_json_with_the_entry_as_data() -> None:
    told = entry(entries.STEP_STARTED, {**STEP, "previous": "queued", "agent_id": "a1"}, subject="try-1")
    [frame] = CloudEvents(EPOCH).encode(told)
    id_line, event_line, data, *end = frame.data.decode().split("\n")
    assert (id_line, event_line, end) == (f"id: {EPOCH}.42.0", "event: step.started", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {
        "specversion": "1.0",
        "id": f"{EPOCH}.41.0",
        "source": "/run/run-1",
        "type": "step.started",
        "subject": "try-1",
        "time": STAMP,
        "datacontenttype": "application/json",
        "data": told.body,
    }


def test_cloud_events_without_a_subject_have_no_such_key() -> None:
    """CloudEvents 1.0: if present, the subject is a non-empty string."""
    [frame] = CloudEvents(EPOCH).encode(entry(entries.RUN_STARTED, RUN))
    assert "subject" not in json.loads(frame.data.split(b"data: ")[1])


def test_a_cut_chunk_is_another_cloud_event() -> None:
    [whole], [cut] = CloudEvents(EPOCH).encode(LOGGED), CloudEvents(EPOCH).encode(LOGGED.tail(2))
    told = json.loads(cut.data.split(b"data: ")[1])
    assert told["data"]["lines"] == ["drei ✓"]
    assert told["data"]["first"] == 11
    assert told["id"] != json.loads(whole.data.split(b"data: ")[1])["id"], "one id, one event"
    assert cut.data.startswith(f"id: {EPOCH}.42.0\n".encode())


@given(st.integers(0, 4_102_444_800_000))
def test_times_are_rfc3339_utc_to_the_millisecond(at: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", rfc3339_ms(at))
    whole, _, milliseconds = rfc3339_ms(at).removesuffix("Z").partition(".")
    assert datetime.fromisoformat(f"{whole}+00:00").timestamp() * 1000 + int(milliseconds) == at


def test_all_formats_leave_a_foreign_entry_alone() -> None:
    """An entry of another stream: no message and no error."""
    told = entry(entries.AGENT_ONLINE, {"agent_id": "a1", "previous": "offline"}, stream="agent/a1")
    framing = Framing("ws", EPOCH)
    formats: list[WireFormat] = [RunMessages(framing), StepLog(framing, batched=True), StepStatus(framing)]
    assert [fmt.encode(told) for fmt in formats] == [(), (), ()]
    assert Cursor(42).text(EPOCH) in CloudEvents(EPOCH).encode(told)[0].data.decode()
