"""Answers of the Arcentra families in the native style."""

from __future__ import annotations

from pilothouse.cli import native

PIPELINE = {
    "pipelineId": "p1",
    "projectId": "x",
    "name": "hello",
    "status": 4,
    "lastCommitSha": "",
    "isEnabled": 0,
    "totalRuns": 3,
    "createdAt": 1768055025,
    "updatedAt": 0,
}


def test_a_pipeline() -> None:
    shown = native.pipeline(PIPELINE)
    assert (shown["id"], shown["project"], shown["status"], shown["enabled"]) == ("p1", "x", "failed", False)
    assert (shown["spec"], shown["total_runs"], shown["failed_runs"]) == (None, 3, 0)
    assert (shown["created_at"], shown["updated_at"]) == ("2026-01-10T14:23:45Z", None)
    assert native.pipeline({**PIPELINE, "status": 0})["status"] is None
    assert native.pipeline({**PIPELINE, "status": 99})["status"] is None, "newer servers may know more"


def test_a_project_and_a_secret() -> None:
    project = {"projectId": "x", "name": "shop", "isDefault": True, "createdAt": 1}
    project["members"] = [{"userId": "u", "username": "ann"}]
    assert native.project(project) == {
        "id": "x",
        "name": "shop",
        "description": "",
        "default": True,
        "tenant_id": "",
        "members": [{"id": "u", "username": "ann"}],
        "created_at": "1970-01-01T00:00:01Z",
    }
    secret = {"name": "KEY", "createdBy": "ann", "createdAt": 1, "updatedAt": 2}
    assert native.secret(secret)["updated_at"] == "1970-01-01T00:00:02Z"


def test_no_key_is_camel_case() -> None:
    project = {"projectId": "x", "name": "shop", "isDefault": True, "createdAt": 1, "updatedAt": 1}
    spec = {"headCommitSha": "h", "text": "t"}
    for shown in (native.pipeline(PIPELINE), native.project(project), native.saved_spec("p", spec)):
        assert [key for key in shown if key != key.lower()] == []
