"""Entries as messages of ``stream.v1``: numbers, times and words of the wire table and decisions.md."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pilothouse.engine.model import Status
from pilothouse.engine.streams import arcentra_status as statuses
from pilothouse.fleet.model import AgentStatus
from pilothouse.fleet.streams import AGENT_STATUS, agent_status
from pilothouse.journal import Entry
from pilothouse.journal.protobuf import Matching, ProtoFormat, UntilEnded
from pilothouse.server.system_events import NUMBERS, SystemEvent, kind_of
from pilothouse.wire import entries
from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.status_checks import PUBLIC_EVENTS

EPOCH = "0a1b2c3d"
AT = 1_768_055_025_999
RUN = {
    "v": 1,
    "run_id": "run-1",
    "kind": "pipeline",
    "name": "build",
    "pipeline_id": "pipe-1",
    "project": "p",
}
JOB = {**RUN, "job_id": "job-1", "job": "test"}
STEP = {**JOB, "step_id": "step-1", "step": "compile", "node": "compile", "uses": "shell", "index": 0}
TRY = {**STEP, "step_run_id": "try-1", "attempt": 2}
STANDS = {
    "job_status": "running",
    "counts": {"total": 3, "completed": 1, "failed": 0, "running": 1},
    "at_step": 1,
}


def entry(type: str, body: dict[str, Any], stream: str = "run/run-1") -> Entry:
    return Entry(41, stream, "", type, AT, "project/p", orjson.dumps(body))


def step(type: str, **more: Any) -> Any:
    return statuses.step_run_status(entry(type, {**TRY, **more}))


def test_every_status_has_its_number() -> None:
    assert set(statuses.RUN_NUMBERS) == {status.value for status in Status} | {"paused"}
    assert set(AGENT_STATUS) == {status.value for status in AgentStatus}
    told = [step(entries.ATTEMPT_COMPLETED, status=status.value).status for status in Status]
    assert told == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(NUMBERS.values()) == set(pb.EventType.values()) - {pb.EVENT_TYPE_UNSPECIFIED}


def test_an_attempt_ends() -> None:
    message = step(
        entries.ATTEMPT_COMPLETED,
        status="timed_out",
        previous="running",
        exit_code=-9,
        error="too long",
        agent_id="a1",
        duration=5200,
        metrics={"cpu": "1"},
    )
    assert message == pb.StreamStepRunStatusResponse(
        step_run_id="try-1",
        pipeline_id="pipe-1",
        pipeline_run_id="run-1",
        job_id="job-1",
        job_name="test",
        step_name="compile",
        status=7,
        previous_status=3,
        timestamp=AT // 1000,
        agent_id="a1",
        exit_code=-9,
        error_message="too long",
        duration=5200,
        metrics={"cpu": "1"},
        attempt=2,
    )


def test_the_end_of_a_step_is_that_of_its_last_attempt() -> None:
    assert step(entries.STEP_COMPLETED, status="failed", previous="running") is None
    body = {**STEP, "status": "skipped", "previous": "pending", "reason": "one failed", "error": ""}
    never = statuses.step_run_status(entry(entries.STEP_COMPLETED, body))
    assert never is not None
    assert (never.step_run_id, never.status, never.previous_status) == ("", 8, 1)
    assert never.error_message == "one failed"


def test_a_run_without_a_definition_stands_in_for_it() -> None:
    body = {**TRY, "pipeline_id": "", "previous": "pending", **STANDS}
    told = entry(entries.STEP_QUEUED, body)
    for build in (statuses.step_run_status, statuses.job_status, SystemEvent(EPOCH, PUBLIC_EVENTS)):
        message: Any = build(told)
        shown = message.metadata["run_id"] if hasattr(message, "metadata") else message.pipeline_id
        assert shown == "run-1"
    assert Matching(types=frozenset({told.type}), values=(("pipeline_id", frozenset({"run-1"})),)).wants(told)
    created = statuses.run_status(entry(entries.RUN_CREATED, {**RUN, "pipeline_id": ""}))
    assert created is not None
    assert (created.pipeline_id, created.run_id) == ("run-1", "run-1")


@pytest.mark.parametrize(
    ("status", "number", "state"), [("timed_out", 4, "timed_out"), ("skipped", 5, "skipped"), ("succeeded", 3, "succeeded")]
)  # fmt: skip
def test_what_has_no_number_has_a_word(status: str, number: int, state: str) -> None:
    body = {**JOB, "status": status, "previous": "running", "reason": "why", "duration": 9, "counts": {}}
    job = statuses.job_status(entry(entries.JOB_COMPLETED, body))
    run = statuses.run_status(
        entry(entries.RUN_COMPLETED, {**RUN, **{k: v for k, v in body.items() if k not in JOB}})
    )
    for message in (job, run):
        assert message is not None
        assert (message.status, message.state, message.reason, message.duration) == (number, state, "why", 9)


def test_a_job_moves_with_its_attempts() -> None:
    for type, more, moves in [
        (entries.STEP_QUEUED, {}, True),
        (entries.STEP_STARTED, {}, True),
        (entries.ATTEMPT_COMPLETED, {"status": "failed", "final": False}, True),
        (entries.ATTEMPT_COMPLETED, {"status": "failed", "final": True, "duration": 7, "reason": "x"}, False),
        (entries.STEP_COMPLETED, {"status": "failed", "duration": 7, "reason": "x"}, True),
    ]:
        message = statuses.job_status(entry(type, {**TRY, **STANDS, **more}))
        assert (message is not None) == moves, type
        if message is not None:
            assert (message.status, message.previous_status) == (2, 2)
            assert (message.total_steps, message.completed_steps, message.running_steps) == (3, 1, 1)
            assert message.current_step_index == 1
            assert (message.duration, message.reason) == (0, ""), "those are the step's"
    assert statuses.job_status(entry(entries.STEP_COMPLETED, {**STEP, **STANDS})) is None
    moved = {"run_status": "running", "run_counts": {"total": 2, "completed": 1, "failed": 1, "running": 0}}
    run = statuses.run_status(
        entry(entries.JOB_COMPLETED, {**JOB, **moved, "status": "failed", "duration": 7})
    )
    assert run is not None
    assert (run.status, run.previous_status, run.failed_jobs, run.duration) == (2, 2, 1, 0)


def test_entries_of_the_first_release_have_fewer_fields() -> None:
    assert step(entries.ATTEMPT_COMPLETED, status="failed").previous_status == 0
    assert statuses.job_status(entry(entries.STEP_STARTED, {**TRY, "previous": "queued"})) is None
    assert statuses.run_status(entry(entries.JOB_STARTED, {**JOB, "previous": "pending"})) is None
    started = statuses.run_status(entry(entries.RUN_STARTED, {**RUN, "previous": "pending"}))
    assert started is not None
    assert (started.status, started.total_jobs) == (2, 0)
    agent = agent_status(entry(entries.AGENT_ONLINE, {"agent_id": "a1", "previous": "offline"}, "agent/a1"))
    assert agent is not None
    assert (agent.agent_id, agent.previous_status) == ("a1", 2)


@pytest.mark.parametrize(
    "type",
    [
        entries.RUN_CANCELLING,
        entries.STEP_WAITING,
        entries.STEP_PROGRESSED,
        entries.STEP_LOGGED,
        entries.STEP_LOG_MISSED,
        entries.STEP_OUTPUT,
        "of.the.future",
    ],
)
def test_what_is_no_change_of_status_is_not_shown(type: str) -> None:
    told = entry(type, {**TRY, **STANDS})
    assert [
        build(told)
        for build in (statuses.step_run_status, statuses.job_status, statuses.run_status, agent_status)
    ] == [None] * 4
    assert kind_of(told, PUBLIC_EVENTS) is None


def test_a_message_has_the_cursor_after_its_entry() -> None:
    told = entry(entries.STEP_QUEUED, {**TRY, "previous": "pending"})
    [frame] = ProtoFormat("x", EPOCH, statuses.step_run_status).encode(told)
    assert frame.k == 1
    assert pb.StreamStepRunStatusResponse.FromString(frame.data).cursor == f"{EPOCH}.42.0"
    event = SystemEvent(EPOCH, PUBLIC_EVENTS)(told)
    assert event is not None
    assert event.event_id == f"{EPOCH}.41.0"


def test_a_stream_is_over_when_all_that_is_watched_is() -> None:
    inner = ProtoFormat("x", EPOCH, statuses.step_run_status)
    fmt = UntilEnded(inner, entries.ATTEMPT_COMPLETED, "step_run_id", {"try-1", "try-2"})
    assert fmt.key == inner.key, "its frames are everybody's"
    ends = [
        (entries.STEP_STARTED, "try-1", False),
        (entries.ATTEMPT_COMPLETED, "try-1", False),
        (entries.ATTEMPT_COMPLETED, "try-1", False),
        (entries.ATTEMPT_COMPLETED, "other", False),
        (entries.ATTEMPT_COMPLETED, "try-2", True),
    ]
    for type, id, over in ends:
        assert fmt.ends(entry(type, {**TRY, "step_run_id": id})) is over


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("arcentra.pipeline.completed", "agent.event"),
        ("arcentra.step.annotation", "arcentra.step.annotation"),
    ],
)
def test_an_agent_s_event_is_not_taken_for_one_of_ours(said: str, shown: str) -> None:
    body = {"event_type": said, "step_run_id": "s1", "step_id": "i1", "step": "work"}
    found = kind_of(entry(entries.AGENT_EVENT, {**TRY, **body}), PUBLIC_EVENTS)
    assert found is not None
    assert found.type == shown
