"""Routes of artifacts for agents: announce one, send its parts, find those of the same run (docs/artifacts.md)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import AuthError, Refusal
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, allow, json_response
from pilothouse.engine.artifacts.errors import StepRunNotFound
from pilothouse.engine.artifacts.http import ArtifactService, Signer, TransferService
from pilothouse.engine.artifacts.model import Artifact
from pilothouse.engine.artifacts.service import Announced, readable_by, runs_here
from pilothouse.engine.artifacts.views import artifact_view, upload_view
from pilothouse.storage import Tx
from pilothouse.wire.rest import artifacts as shown

router = APIRouter(tags=["artifacts"])

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18})")


@router.post(
    "/api/v1/step-runs/{step_run_id}/artifacts",
    dependencies=[allow("agent.self")],
    status_code=201,
    summary="Announce an artifact",
    responses=answer(shown.Upload, 201)
    | errors(
        "STEP_RUN_NOT_FOUND",
        "VALIDATION_FAILED",
        "PAYLOAD_TOO_LARGE",
        "QUOTA_EXCEEDED",
        "ARTIFACT_ALREADY_EXISTS",
    ),
)
async def announce_artifact(
    step_run_id: str,
    caller: Caller,
    database: Database,
    artifacts: ArtifactService,
    signer: Signer,
    body: shown.AnnounceArtifact,
) -> Response:
    """For the agent that runs the step. Announced again with the same content, an upload goes on where it was cut.

    Errors: ``STEP_RUN_NOT_FOUND``, ``VALIDATION_FAILED``, ``PAYLOAD_TOO_LARGE``, ``QUOTA_EXCEEDED``,
    ``ARTIFACT_ALREADY_EXISTS``.
    """
    wanted = Announced(
        name=body.name,
        file_name=body.file_name,
        format=body.format,
        size=body.size,
        sha256=body.sha256,
        files=body.files,
        unpacked=body.unpacked_size,
        retention=body.retention,
        overwrite=body.overwrite,
    )

    def use_case(tx: Tx) -> dict[str, object]:
        artifact = artifacts.begin(tx, caller, step_run_id, wanted)
        return upload_view(artifact, signer.path("upload", artifact.id, caller.key))

    return json_response(await database.write(use_case), 201)


@router.put(
    "/api/v1/artifacts/{artifact_id}/parts",
    dependencies=[allow("agent.self")],
    summary="Send a part of an artifact",
    responses=answer(shown.Upload)
    | errors(
        "ARTIFACT_NOT_FOUND",
        "VALIDATION_FAILED",
        "UPLOAD_OFFSET_CONFLICT",
        "OBJECTS_UNAVAILABLE",
        "CALLER_QUEUE_FULL",
    ),
)
async def send_artifact_part(
    artifact_id: str,
    request: Request,
    caller: Caller,
    transfer: TransferService,
    signer: Signer,
    by: Annotated[str, Query(max_length=256, description="whom the address was made for")],
    expires: Annotated[int, Query(ge=0, le=2**53, description="Unix seconds")],
    signature: Annotated[str, Query(max_length=64)],
) -> Response:
    """The raw body is the next part; ``Content-Range`` says where it begins (without it: at 0; ``bytes */SIZE`` with
    an empty body: everything was sent), and ``X-Content-SHA256`` (hex), where given, is checked. The last part
    completes the artifact, whose own SHA-256 is then checked; if it is wrong, all of it is deleted.

    Errors: ``UPLOAD_OFFSET_CONFLICT`` (``details.offset`` says where to go on), ``ARTIFACT_NOT_FOUND``,
    ``VALIDATION_FAILED``, ``OBJECTS_UNAVAILABLE``, ``CALLER_QUEUE_FULL``.
    """
    if by != caller.key:
        raise AuthError("AUTH_TOKEN_INVALID", "This address is for another agent")
    signer.check("upload", artifact_id, by, expires, signature)
    checksum = request.headers.get("x-content-sha256", "")
    offset = _offset(request.headers.get("content-range", ""))
    artifact = await transfer.part(caller, artifact_id, offset, request.stream(), checksum)
    return json_response(upload_view(artifact, signer.path("upload", artifact_id, caller.key)))


def _offset(header: str) -> int:
    if not header:
        return 0
    found = _CONTENT_RANGE.fullmatch(header)
    if found is None:
        raise Refusal.of("VALIDATION_FAILED", "Content-Range is bytes FIRST-LAST/SIZE, or bytes */SIZE")
    return int(found[1] or found[2])


@router.get(
    "/api/v1/step-runs/{step_run_id}/available-artifacts",
    dependencies=[allow("agent.self")],
    summary="List the artifacts that a step may download",
    responses=answer(shown.ArtifactList) | errors("STEP_RUN_NOT_FOUND"),
)
async def list_available_artifacts(
    step_run_id: str, caller: Caller, database: Database, signer: Signer
) -> Response:
    """For the agent that runs the step: the finished artifacts of its run. ``download_url`` is signed for this agent
    and can be used for 15 minutes. Errors: ``STEP_RUN_NOT_FOUND``."""

    def read(conn: Connection) -> list[Artifact]:
        if not runs_here(conn, caller, step_run_id):
            raise StepRunNotFound(step_run_id)
        return list(readable_by(conn, step_run_id).values())

    found = await database.read(read)
    views = [artifact_view(each, "", signer.path("download", each.id, caller.key)) for each in found]
    return json_response({"artifacts": views})
