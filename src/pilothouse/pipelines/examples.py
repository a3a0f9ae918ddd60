"""Example answers of the pipeline routes, for the OpenAPI document."""

from __future__ import annotations

from pilothouse.edge.openapi import enveloped_example

SPEC_TEXT = """jobs:
  - name: build
    steps:
      - name: hello
        uses: shell
        args: {command: echo hello}
"""

_PIPELINE_ID = "019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10"
_RUN_ID = "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"
_HEAD = "02ff0a6960f946046f4b7c70b003f2da07d093e4"
_PIPELINE = {
    "pipelineId": _PIPELINE_ID,
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
_SPEC = {
    "jobs": [
        {
            "name": "build",
            "steps": [
                {"name": "hello", "uses": "shell", "action": "command", "args": {"command": "echo hello"}}
            ],
        }
    ]
}
_RUN = {
    "runId": _RUN_ID,
    "pipelineId": _PIPELINE_ID,
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

CREATED = enveloped_example({"pipelineId": _PIPELINE_ID}, 201)
PIPELINES = enveloped_example({"list": [_PIPELINE], "total": 1, "page": 1, "pageSize": 20})
PIPELINE = enveloped_example(_PIPELINE)
DELETED = enveloped_example({"pipelineId": _PIPELINE_ID})
VALID = enveloped_example({"jobsCount": 1, "warnings": [], "warningDetails": []})
SPEC = enveloped_example(
    {
        "spec": _SPEC,
        "text": SPEC_TEXT,
        "format": 2,
        "headCommitSha": _HEAD,
        "branch": "main",
        "pipelineFilePath": ".pilot.yaml",
    }
)
SAVED = enveloped_example({"commitSha": _HEAD, "branch": "main", "saveMode": 1, "prUrl": "", "prBranch": ""})
TRIGGERED = enveloped_example({"runId": _RUN_ID}, 201)
RUNS = enveloped_example({"list": [_RUN], "total": 1, "page": 1, "pageSize": 20})
RUN = enveloped_example(_RUN)
STOPPED = enveloped_example({"runId": _RUN_ID, "status": 2})
PAUSED = enveloped_example({"runId": _RUN_ID, "status": 6})
RESUMED = STOPPED
