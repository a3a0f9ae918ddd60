"""The JSON forms of artifacts, and that of ``ListStepRunArtifacts``."""

from __future__ import annotations

from typing import Any

from pilothouse.engine.artifacts.model import Artifact, State
from pilothouse.engine.step_artifacts import StepArtifact
from pilothouse.wire.times import rfc3339_ms


def artifact_view(artifact: Artifact, run_id: str = "", url: str = "") -> dict[str, Any]:
    """A finished artifact, in the list of run ``run_id``; ``url``: a signed address instead of the usual one."""
    return {
        "id": artifact.id,
        "name": artifact.name,
        "file_name": artifact.file_name,
        "format": artifact.format,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "files": artifact.files,
        "unpacked_size": artifact.unpacked,
        "run_id": artifact.run_id,
        "job": artifact.job,
        "step": artifact.step,
        "step_run_id": artifact.step_run_id,
        "project": artifact.project,
        "earlier_run": bool(run_id) and artifact.run_id != run_id,
        "download_url": artifact.url or url or f"/api/v1/artifacts/{artifact.id}/content",
        "created_at": rfc3339_ms(artifact.ready_at),
        "expire_at": rfc3339_ms(artifact.expire_at) if artifact.expire_at else None,
    }


def upload_view(artifact: Artifact, url: str) -> dict[str, Any]:
    """An artifact that is being sent; ``url``: where its next part goes."""
    ready = artifact.state is State.READY
    return {
        "id": artifact.id,
        "state": "ready" if ready else "uploading",
        "offset": artifact.received,
        "size": artifact.size,
        "part_size": artifact.part_size,
        "url": "" if ready else url,
    }


def listed_artifact(artifact: Artifact, url: str) -> StepArtifact:
    """A finished artifact; ``url``: a signed address, for those that are kept here."""
    return StepArtifact(
        id=artifact.id,
        name=artifact.name,
        path=artifact.file_name,
        size=artifact.size,
        download_url=artifact.url or url,
        created_at=artifact.ready_at,
        expire_at=artifact.expire_at,
    )
