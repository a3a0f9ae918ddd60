"""Routes of blobs: bounded uploads (decisions.md, native routes)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from pilothouse.access.errors import Refusal, require
from pilothouse.blobs.service import Blobs
from pilothouse.blobs.usage import use_of
from pilothouse.edge.openapi import answer, content, errors
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Idem, allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.wire.rest.blobs import Blob

router = APIRouter(prefix="/api/v1/blobs", tags=["blobs"])

BlobService = Annotated[Blobs, provided(Blobs)]


@router.post(
    "",
    dependencies=[allow("blob.write")],
    status_code=201,
    summary="Upload a file",
    responses=answer(Blob, 201)
    | errors(
        "PAYLOAD_TOO_LARGE", "VALIDATION_FAILED", "QUOTA_EXCEEDED", "CALLER_QUEUE_FULL", "PROJECT_NOT_FOUND"
    ),
)
async def upload_blob(
    request: Request,
    caller: Caller,
    idem: Idem,
    blobs: BlobService,
    identity: IdentityService,
    database: Database,
    project: str = "",
) -> Response:
    """The raw body is the file; ``X-Content-SHA256`` (hex), where given, is checked.

    The quotas of the project and the caller are checked before the body is received; a body without
    ``Content-Length`` counts as the largest allowed. Errors: ``QUOTA_EXCEEDED``,
    ``CALLER_QUEUE_FULL``, ``PAYLOAD_TOO_LARGE``, ``VALIDATION_FAILED``.
    """
    home = await identity.project_id(caller, project)
    require(caller, "blob.write", home)
    checksum = request.headers.get("x-content-sha256", "")
    use = await database.read(lambda conn: use_of(conn, home, caller.name))
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else blobs.limit
    with blobs.uploads.admitted(home, caller.name, use, size):
        blob = await blobs.receive(request.stream(), checksum)
        try:
            answer = await idem(
                lambda tx, by: blobs.record(tx, by, home, blob),
                201,
                permit=lambda _, by: require(by, "blob.write", home),
                content=blob.sha256.encode(),
            )
        except Refusal:
            blobs.discard(blob)
            raise
    if answer.headers.get("idempotency-replayed"):
        blobs.discard(blob)  # a repeated request: the first answer refers to another blob
    return answer


@router.get(
    "/{blob_id}",
    dependencies=[allow("blob.read")],
    summary="Download a file",
    response_class=FileResponse,
    responses=content("hello\n", media="application/octet-stream", description="The file")
    | errors("BLOB_NOT_FOUND"),
)
async def download_blob(blob_id: str, caller: Caller, blobs: BlobService, database: Database) -> Response:
    """For users of the project, and agents whose work needs the blob. Errors: ``BLOB_NOT_FOUND``."""
    path = await database.read(lambda conn: blobs.readable(conn, caller, blob_id))
    return FileResponse(path, media_type="application/octet-stream")
