"""Converts run entries and the current state of runs to status messages of ``stream.v1`` (arcentra-wire.txt).

Stateless. Times are in Unix seconds, durations in milliseconds and 0 until the end. A message of the current state
has no previous status.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pilothouse.engine.model import Attempt, Job, Run, Step
from pilothouse.engine.streams.arcentra import STATUS_NUMBERS
from pilothouse.engine.unstarted import unstarted
from pilothouse.journal import Entry
from pilothouse.wire import entries
from pilothouse.wire.pipeline.v1 import pipeline_pb2 as pipeline
from pilothouse.wire.steprun.v1 import steprun_pb2 as steprun
from pilothouse.wire.stream.v1 import stream_pb2 as pb

RUN_NUMBERS = {
    "pending": pipeline.PIPELINE_STATUS_PENDING,
    "queued": pipeline.PIPELINE_STATUS_PENDING,
    "running": pipeline.PIPELINE_STATUS_RUNNING,
    "succeeded": pipeline.PIPELINE_STATUS_SUCCESS,
    "failed": pipeline.PIPELINE_STATUS_FAILED,
    "timed_out": pipeline.PIPELINE_STATUS_FAILED,
    "cancelled": pipeline.PIPELINE_STATUS_CANCELLED,
    "skipped": pipeline.PIPELINE_STATUS_CANCELLED,
    "paused": pipeline.PIPELINE_STATUS_PAUSED,
}
"""pipeline.v1.PipelineStatus of runs and jobs."""

STEP_RUN_TYPES = frozenset(
    {entries.STEP_QUEUED, entries.STEP_STARTED, entries.ATTEMPT_COMPLETED, entries.STEP_COMPLETED}
)
JOB_TYPES = frozenset(
    {
        entries.JOB_WAITING,
        entries.JOB_STARTED,
        entries.JOB_RESTARTED,
        entries.JOB_COMPLETED,
        entries.STEP_QUEUED,
        entries.STEP_STARTED,
        entries.ATTEMPT_COMPLETED,
        entries.STEP_COMPLETED,
    }
)
RUN_TYPES = frozenset(
    {
        entries.RUN_CREATED,
        entries.RUN_WAITING,
        entries.RUN_STARTED,
        entries.RUN_REOPENED,
        entries.RUN_PAUSED,
        entries.RUN_RESUMED,
        entries.RUN_COMPLETED,
        entries.JOB_STARTED,
        entries.JOB_COMPLETED,
    }
)

PAUSED = "paused"
"""How a paused run is shown: its status goes on being "running"."""

Body = dict[str, Any]

# -- step runs ------------------------------------------------------------------------------------------


def step_run_status(entry: Entry) -> pb.StreamStepRunStatusResponse | None:
    """The new status of an attempt, or of a step that ends without one (``step_run_id`` is empty then)."""
    body = entry.body
    if entry.type == entries.STEP_QUEUED:
        status = "queued"
    elif entry.type == entries.STEP_STARTED:
        status = "running"
    elif entry.type == entries.ATTEMPT_COMPLETED or (
        entry.type == entries.STEP_COMPLETED and "step_run_id" not in body
    ):  # the latter: steps that ended between two attempts, and in older entries all that ended without one
        status = body["status"]
    else:
        return None
    return pb.StreamStepRunStatusResponse(
        step_run_id=body.get("step_run_id", ""),
        pipeline_id=body["pipeline_id"] or body["run_id"],
        pipeline_run_id=body["run_id"],
        job_id=body["job_id"],
        job_name=body["job"],
        step_name=body["step"],
        status=_step_number(status),
        previous_status=_step_number(body.get("previous", "")),
        timestamp=entry.at // 1000,
        agent_id=body.get("agent_id", ""),
        exit_code=body.get("exit_code", 0),
        error_message=body.get("error") or (body.get("reason", "") if "step_run_id" not in body else ""),
        duration=body.get("duration", 0),
        metrics=body.get("metrics", {}),
        attempt=body.get("attempt", 0),
    )


def present_step_runs(
    run: Run, job: Job, attempts: dict[str, list[Attempt]]
) -> Iterator[pb.StreamStepRunStatusResponse]:
    """The step runs of a job; ``attempts``: the existing attempts by step."""
    for step in job.steps:
        for attempt in attempts.get(step.id, ()):
            yield _present_step_run(run, job, step, attempt)
        waiting = unstarted(run, job, step)
        if waiting is not None:
            yield _present_step_run(run, job, step, waiting)


def _present_step_run(run: Run, job: Job, step: Step, attempt: Attempt) -> pb.StreamStepRunStatusResponse:
    ended = attempt.finished_at
    return pb.StreamStepRunStatusResponse(
        step_run_id=attempt.id,
        pipeline_id=run.pipeline_id or run.id,
        pipeline_run_id=run.id,
        job_id=job.id,
        job_name=job.name,
        step_name=step.name,
        status=_step_number(attempt.status),
        timestamp=(ended or attempt.started_at or attempt.queued_at or run.created_at) // 1000,
        agent_id=attempt.agent_id if attempt.started_at or ended else "",
        exit_code=attempt.exit_code,
        error_message=attempt.error,
        duration=ended - attempt.started_at if ended and attempt.started_at else 0,
        attempt=attempt.number,
    )


def _step_number(status: str) -> steprun.StepRunStatus.ValueType:
    return steprun.StepRunStatus.ValueType(STATUS_NUMBERS.get(status, 0))


# -- jobs -----------------------------------------------------------------------------------------------


def job_status(entry: Entry) -> pb.StreamJobStatusResponse | None:
    """The state of a job when its status or that of one of its attempts changes."""
    body = entry.body
    if entry.type == entries.JOB_WAITING:
        status, previous = "pending", body.get("previous", "pending")
    elif entry.type == entries.JOB_STARTED:
        status, previous = "running", body["previous"]
    elif entry.type == entries.JOB_COMPLETED:
        status, previous = body["status"], body["previous"]
    elif entry.type == entries.JOB_RESTARTED:
        status = previous = "running"
    elif _moves_job(entry.type, body):
        status = previous = body["job_status"]
    else:
        return None
    own = entry.type in (
        entries.JOB_WAITING,
        entries.JOB_STARTED,
        entries.JOB_RESTARTED,
        entries.JOB_COMPLETED,
    )
    return pb.StreamJobStatusResponse(
        job_id=body["job_id"],
        job_name=body["job"],
        pipeline_id=body["pipeline_id"] or body["run_id"],
        pipeline_run_id=body["run_id"],
        status=_run_number(status),
        previous_status=_run_number(previous),
        timestamp=entry.at // 1000,
        current_step_index=body.get("at_step", 0),
        duration=body.get("duration", 0) if own else 0,
        state=status,
        reason=body.get("reason", "") if own else "",
        **_counted("steps", body.get("counts")),
    )


def _moves_job(type: str, body: Body) -> bool:
    """Whether an attempt's change also changes its job. The last end is reported with the step, if it has started.

    Also the end of a step that a user has ended before it started: nothing else of its job may change then.
    """
    alone = body.get("alone", False)
    return (
        type in JOB_TYPES
        and ("step_run_id" in body or alone)
        and not (type == entries.ATTEMPT_COMPLETED and body["final"])
        and not (type == entries.STEP_COMPLETED and body.get("previous") == "pending" and not alone)
        and "job_status" in body  # not so in entries of the first release
    )


def present_job(run: Run, job: Job) -> pb.StreamJobStatusResponse:
    """The current state of a job."""
    ended = job.finished_at
    return pb.StreamJobStatusResponse(
        job_id=job.id,
        job_name=job.name,
        pipeline_id=run.pipeline_id or run.id,
        pipeline_run_id=run.id,
        status=_run_number(job.status),
        timestamp=(ended or job.started_at or run.created_at) // 1000,
        current_step_index=job.at_step,
        duration=ended - job.started_at if ended and job.started_at else 0,
        state=job.status,
        reason=job.reason,
        **_counted("steps", job.counts.shown()),
    )


# -- runs -----------------------------------------------------------------------------------------------


def run_status(entry: Entry) -> pb.StreamPipelineStatusResponse | None:
    """The state of a run when its status or that of one of its jobs changes."""
    body = entry.body
    own = "job_id" not in body or entry.type == entries.RUN_REOPENED  # which names the job and the step
    if entry.type == entries.RUN_CREATED:
        status, previous = "pending", ""
    elif entry.type == entries.RUN_WAITING:
        status, previous = "pending", body.get("previous", "pending")
    elif entry.type == entries.RUN_STARTED:
        status, previous = "running", body["previous"]
    elif entry.type == entries.RUN_REOPENED:
        status, previous = (PAUSED, PAUSED) if body.get("paused") else ("running", body["previous"])
    elif entry.type == entries.RUN_PAUSED:
        status, previous = PAUSED, "running"
    elif entry.type == entries.RUN_RESUMED:
        status, previous = "running", PAUSED
    elif entry.type == entries.RUN_COMPLETED:
        status, previous = body["status"], body["previous"]
    elif entry.type in RUN_TYPES and "run_status" in body:
        status = previous = body["run_status"]
    else:
        return None
    return pb.StreamPipelineStatusResponse(
        pipeline_id=body["pipeline_id"] or body["run_id"],
        run_id=body["run_id"],
        namespace=body.get("namespace", ""),
        status=_run_number(status),
        previous_status=_run_number(previous),
        timestamp=entry.at // 1000,
        duration=body.get("duration", 0) if own else 0,
        state=status,
        reason=body.get("reason", "") if own else "",
        **_counted("jobs", body.get("counts" if own else "run_counts")),
    )


def present_run(run: Run) -> pb.StreamPipelineStatusResponse:
    """The current state of a run."""
    ended = run.finished_at
    return pb.StreamPipelineStatusResponse(
        pipeline_id=run.pipeline_id or run.id,
        run_id=run.id,
        namespace=run.graph.namespace,
        status=_run_number(PAUSED if run.paused_at else run.status),
        timestamp=(ended or run.started_at or run.created_at) // 1000,
        duration=ended - run.started_at if ended and run.started_at else 0,
        state=PAUSED if run.paused_at else run.status,
        reason=run.reason,
        **_counted("jobs", run.counts.shown()),
    )


def _run_number(status: str) -> pipeline.PipelineStatus.ValueType:
    return RUN_NUMBERS.get(status, pipeline.PIPELINE_STATUS_UNSPECIFIED)


def _counted(what: str, counts: dict[str, int] | None) -> dict[str, Any]:
    # Not in all entries of the first release.
    return {f"{word}_{what}": number for word, number in (counts or {}).items()}
