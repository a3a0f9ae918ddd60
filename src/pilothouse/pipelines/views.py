"""Answers of the routes of pipelines: messages of pipeline.v1 in their JSON form, enums by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from pilothouse.engine import run_counts
from pilothouse.engine.model import Run
from pilothouse.engine.run_counts import RunCounts
from pilothouse.pipelines.model import RUN_STATUS, TRIGGER_TYPE, Pipeline, RunStatus
from pilothouse.storage import now_ms


def pipeline_detail(conn: Connection, pipeline: Pipeline) -> dict[str, Any]:
    """``pipeline.v1.PipelineDetail``, with the counts of its runs."""
    return pipeline_details(conn, [pipeline])[0]


def pipeline_details(conn: Connection, pipelines: Sequence[Pipeline]) -> list[dict[str, Any]]:
    """The same of several, with one query."""
    counts = run_counts.of_pipelines(conn, [pipeline.id for pipeline in pipelines])
    return [_detail(pipeline, counts.get(pipeline.id, RunCounts())) for pipeline in pipelines]


def _detail(pipeline: Pipeline, counts: RunCounts) -> dict[str, Any]:
    return {
        "pipelineId": pipeline.id,
        "projectId": pipeline.project,
        "name": pipeline.name,
        "description": pipeline.description,
        "repoUrl": pipeline.repo_url,
        "repoSecret": pipeline.repo_secret,
        "defaultBranch": pipeline.default_branch,
        "pipelineFilePath": pipeline.file_path,
        "status": int(RUN_STATUS[counts.newest]) if counts.newest else 0,
        "saveMode": pipeline.save_mode,
        "prTargetBranch": pipeline.pr_target,
        **_shown("metadata", pipeline.metadata),
        "repository": pipeline.repository,
        "lastSyncMessage": pipeline.sync_message,
        "lastSyncedAt": pipeline.synced_at // 1000,
        "lastEditor": pipeline.last_editor,
        "lastCommitSha": pipeline.head,
        "totalRuns": counts.total,
        "successRuns": counts.succeeded,
        "failedRuns": counts.failed,
        "createdBy": pipeline.created_by,
        "isEnabled": int(pipeline.enabled),
        "createdAt": pipeline.created_at // 1000,
        "updatedAt": pipeline.updated_at // 1000,
    }


def status_words(number: int) -> list[str]:
    """The engine's statuses with this number in pipeline.v1."""
    return [word for word, known in RUN_STATUS.items() if known == number]


def run_status(run: Run | Row[Any]) -> RunStatus:
    """A run's status as a number of pipeline.v1."""
    return RUN_STATUS["paused" if run.paused_at else str(run.status)]


def _shown(name: str, texts: dict[str, str] | None) -> dict[str, Any]:
    """A map as it is, or that a list does not show it because it is large."""
    return {name: texts} if texts is not None else {name: {}, f"{name}Omitted": True}


def run_detail(
    run: Run | Row[Any], pipeline: Pipeline, counts: dict[str, int], variables: dict[str, str] | None
) -> dict[str, Any]:
    """``pipeline.v1.PipelineRunDetail``, with the counts of its jobs; ``variables``: none, if they are too large."""
    ended = run.finished_at
    return {
        "runId": run.id,
        "pipelineId": pipeline.id,
        "pipelineName": pipeline.name,
        "branch": run.branch,
        "commitSha": run.commit_sha,
        "definitionCommitSha": run.definition,
        "definitionPath": pipeline.file_path if run.definition else "",
        "status": int(run_status(run)),
        "triggerType": TRIGGER_TYPE[run.trigger],
        "triggeredBy": run.triggered_by,
        **_shown("variables", variables),
        "totalJobs": counts["total"],
        "completedJobs": counts["completed"],
        "failedJobs": counts["failed"],
        "runningJobs": counts["running"],
        "startTime": run.started_at // 1000,
        "endTime": ended // 1000,
        "duration": max(0, (ended or now_ms()) - run.started_at) if run.started_at else 0,
    }
