"""Converts responses of the Arcentra APIs (camelCase, Unix seconds, enum numbers) to the style of the others:
snake_case, RFC 3339, enum names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.wire.times import rfc3339

_STATUS = {1: "pending", 2: "running", 3: "succeeded", 4: "failed", 5: "cancelled", 6: "paused"}
"""pipeline.v1.PipelineStatus."""

Answer = Mapping[str, Any]


def time(seconds: int | float | None) -> str | None:
    """Unix seconds as RFC 3339; ``None`` for ``None`` and 0 (never)."""
    if not seconds:
        return None
    return rfc3339(int(seconds) * 1000)


def pipeline(answer: Answer) -> dict[str, Any]:
    """A pipeline; ``status`` is that of its newest run, ``spec`` the hash of its saved spec or ``None``."""
    return {
        "id": answer["pipelineId"],
        "name": answer["name"],
        "project": answer["projectId"],
        "description": answer.get("description", ""),
        "repository": answer.get("repository", ""),
        "enabled": bool(answer.get("isEnabled", 1)),
        "status": _STATUS.get(answer.get("status", 0)),
        "spec": answer.get("lastCommitSha") or None,
        "file": answer.get("pipelineFilePath", ""),
        "default_branch": answer.get("defaultBranch", ""),
        "metadata": dict(answer.get("metadata") or {}),
        "total_runs": answer.get("totalRuns", 0),
        "succeeded_runs": answer.get("successRuns", 0),
        "failed_runs": answer.get("failedRuns", 0),
        "created_by": answer.get("createdBy", ""),
        "last_editor": answer.get("lastEditor", ""),
        "created_at": time(answer.get("createdAt")),
        "updated_at": time(answer.get("updatedAt")),
    }


def notification(answer: Answer) -> dict[str, Any]:
    """The delivery of a notification."""
    return {
        "id": answer["deliveryId"],
        "run_id": answer["runId"],
        "event": answer["event"],
        "job": answer["job"],
        "plugin": answer["plugin"],
        "target": answer["target"],
        "status": answer["status"],
        "attempts": answer["attempts"],
        "created_at": time(answer["createdAt"]),
        "last_attempt_at": time(answer["lastAttemptAt"]),
        "next_attempt_at": time(answer["nextAttemptAt"]),
        "ended_at": time(answer["endedAt"]),
        "response_code": answer["responseCode"],
        "reason": answer["reason"],
        "response": answer["response"],
    }


def project(answer: Answer) -> dict[str, Any]:
    """A project and its members; ``default``: whether it is the default project."""
    return {
        "id": answer["projectId"],
        "name": answer["name"],
        "description": answer.get("description", ""),
        "default": bool(answer.get("isDefault", False)),
        "tenant_id": answer.get("tenantId", ""),
        "members": [
            {"id": each["userId"], "username": each["username"]} for each in answer.get("members") or ()
        ],
    } | _times(answer)


def member(answer: Answer) -> dict[str, Any]:
    """A member of a project."""
    return {
        "id": answer["userId"],
        "username": answer["username"],
        "role": answer["role"],
        "active": answer["active"],
    }


def tenant(answer: Answer) -> dict[str, Any]:
    """A tenant, and how many of its projects the caller sees."""
    return {
        "id": answer["tenantId"],
        "name": answer["name"],
        "description": answer.get("description", ""),
        "projects": answer.get("projectsCount", 0),
    } | _times(answer)


def setting(answer: Answer) -> dict[str, Any]:
    """A setting of the server, and where its value comes from."""
    return {
        "name": answer["name"],
        "value": answer["value"],
        "from": answer["source"],
        "changeable": answer["changeable"],
        "changed_by": answer.get("changedBy", ""),
        "changed_at": time(answer.get("changedAt")),
    }


def secret(answer: Answer) -> dict[str, Any]:
    """A secret without its value."""
    return {"name": answer["name"], "created_by": answer.get("createdBy", "")} | _times(answer)


def saved_spec(pipeline_id: str, answer: Answer) -> dict[str, Any]:
    """A saved spec."""
    return {"pipeline_id": pipeline_id, "spec": answer["headCommitSha"], "text": answer["text"]}


def _times(answer: Answer) -> dict[str, Any]:
    keys = (("created_at", "createdAt"), ("updated_at", "updatedAt"))
    return {ours: time(answer[theirs]) for ours, theirs in keys if theirs in answer}
