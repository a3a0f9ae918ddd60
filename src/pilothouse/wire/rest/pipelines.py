"""Pipelines, their specs and runs: messages of pipeline.v1 in their JSON form (decisions.md, Arcentra)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Id, Seconds
from pilothouse.wire.rest.errors import SpecProblem

SPEC_TEXT = """jobs:
  - name: build
    steps:
      - name: hello
        uses: shell
        args: {command: echo hello}
"""

_SPEC: dict[str, Any] = {
    "jobs": [
        {
            "name": "build",
            "steps": [
                {"name": "hello", "uses": "shell", "action": "command", "args": {"command": "echo hello"}}
            ],
        }
    ]
}
_HEAD = "02ff0a6960f946046f4b7c70b003f2da07d093e4"

PipelineStatusNumber = Annotated[int, Field(ge=0, le=6)]
"""pipeline.v1.PipelineStatus."""


class PipelineId(Answer):
    """The id of a pipeline that was created or deleted."""

    pipelineId: Id

    example: ClassVar[Any] = {"pipelineId": "019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10"}


class Pipeline(Answer):
    """A pipeline with the counts of its runs; ``status``: that of its newest run; ``lastCommitSha`` empty: no spec
    was saved yet. ``metadataOmitted``: a list does not show the metadata, because it is large."""

    pipelineId: Id
    projectId: Id
    name: str
    description: str
    repoUrl: str
    defaultBranch: str
    pipelineFilePath: str
    status: PipelineStatusNumber
    saveMode: Count
    prTargetBranch: str
    metadata: dict[str, str]
    metadataOmitted: bool = False
    repository: str
    lastSyncMessage: str
    lastSyncedAt: Seconds
    lastEditor: str
    lastCommitSha: str
    totalRuns: Count
    successRuns: Count
    failedRuns: Count
    createdBy: str
    isEnabled: Annotated[int, Field(ge=0, le=1)]
    createdAt: Seconds
    updatedAt: Seconds

    example: ClassVar[Any] = {
        **PipelineId.example,
        "projectId": "019a7b1e-0000-7000-8000-000000000001",
        "name": "hello",
        "description": "says hello",
        "repoUrl": "",
        "defaultBranch": "main",
        "pipelineFilePath": ".pilot.yaml",
        "status": 2,
        "saveMode": 1,
        "prTargetBranch": "",
        "metadata": {},
        "repository": "https://git.example/team/hello",
        "lastSyncMessage": "",
        "lastSyncedAt": 0,
        "lastEditor": "admin",
        "lastCommitSha": _HEAD,
        "totalRuns": 3,
        "successRuns": 2,
        "failedRuns": 0,
        "createdBy": "admin",
        "isEnabled": 1,
        "createdAt": 1768054000,
        "updatedAt": 1768054000,
    }


class Validation(Answer):
    """A valid spec: its number of jobs, and warnings, as lines (``file:line:column: warning: …``) and as objects."""

    jobsCount: Count
    warnings: list[str]
    warningDetails: list[SpecProblem]

    example: ClassVar[Any] = {"jobsCount": 1, "warnings": [], "warningDetails": []}


class SavedSpec(Answer):
    """The current spec, as an object (pipeline.v1.Spec) and as its source; ``format``: pipeline.v1.SpecFormat."""

    spec: dict[str, Any]
    text: str
    format: Count
    headCommitSha: str
    branch: str
    pipelineFilePath: str

    example: ClassVar[Any] = {
        "spec": _SPEC,
        "text": SPEC_TEXT,
        "format": 2,
        "headCommitSha": _HEAD,
        "branch": "main",
        "pipelineFilePath": ".pilot.yaml",
    }


class SpecSaved(Answer):
    """The new head; ``prUrl`` and ``prBranch`` are empty unless ``saveMode`` is 2."""

    commitSha: str
    branch: str
    saveMode: Count
    prUrl: str
    prBranch: str

    example: ClassVar[Any] = {
        "commitSha": _HEAD,
        "branch": "main",
        "saveMode": 1,
        "prUrl": "",
        "prBranch": "",
    }


class Triggered(Answer):
    """The id of the run that was started."""

    runId: Id

    example: ClassVar[Any] = {"runId": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"}


class PipelineRun(Answer):
    """A run of a pipeline; ``duration`` in milliseconds, so far if it has not ended.

    ``variablesOmitted``: a list does not show the variables, because they are large.
    """

    runId: Id
    pipelineId: Id
    pipelineName: str
    branch: str
    commitSha: str
    definitionCommitSha: str
    definitionPath: str
    status: PipelineStatusNumber
    triggerType: Count
    triggeredBy: str
    variables: dict[str, str]
    variablesOmitted: bool = False
    totalJobs: Count
    completedJobs: Count
    failedJobs: Count
    runningJobs: Count
    startTime: Seconds
    endTime: Seconds
    duration: Count

    example: ClassVar[Any] = {
        **Triggered.example,
        "pipelineId": PipelineId.example["pipelineId"],
        "pipelineName": "hello",
        "branch": "main",
        "commitSha": "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "definitionCommitSha": _HEAD,
        "definitionPath": ".pilot.yaml",
        "status": 2,
        "triggerType": 1,
        "triggeredBy": "admin",
        "variables": {"greeting": "hello"},
        "totalJobs": 1,
        "completedJobs": 0,
        "failedJobs": 0,
        "runningJobs": 1,
        "startTime": 1768055025,
        "endTime": 0,
        "duration": 1234,
    }


class RunState(Answer):
    """A run's status after it was stopped, paused or resumed."""

    runId: Id
    status: PipelineStatusNumber

    example: ClassVar[Any] = {**Triggered.example, "status": 2}
