"""Routes of artifacts for users (docs/artifacts.md)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from pilothouse.access.errors import AuthError, require
from pilothouse.access.model import Principal
from pilothouse.blobs.sending import sent
from pilothouse.edge.openapi import answer, content, errors
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Change, OptionalCaller, allow, json_response, public
from pilothouse.engine.artifacts import store
from pilothouse.engine.artifacts.errors import StepRunNotFound
from pilothouse.engine.artifacts.lineage import artifacts_of
from pilothouse.engine.artifacts.model import Artifact
from pilothouse.engine.artifacts.service import Artifacts
from pilothouse.engine.artifacts.signing import UrlSigner
from pilothouse.engine.artifacts.transfer import Transfer
from pilothouse.engine.artifacts.views import artifact_view
from pilothouse.engine.http import readable
from pilothouse.engine.lookup import find_step_run
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.service import Identity
from pilothouse.wire import entries
from pilothouse.wire.rest import artifacts as shown
from pilothouse.wire.rest.base import Done

router = APIRouter(tags=["artifacts"])

ArtifactService = Annotated[Artifacts, provided(Artifacts)]
TransferService = Annotated[Transfer, provided(Transfer)]
Signer = Annotated[UrlSigner, provided(UrlSigner)]

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "PK"}}
_CONTENT = (
    content("PK…", media="application/octet-stream", description="The content")
    | {
        206: {"description": "The range that was asked for", "content": _BYTES},
        307: {"description": "The artifact is kept elsewhere: see Location"},
        416: {"description": "The range is outside of the content"},
    }
    | errors("ARTIFACT_NOT_FOUND", "OBJECTS_UNAVAILABLE")
)


@router.get(
    "/api/v1/workflow-runs/{run_id}/artifacts",
    dependencies=[allow("run.read")],
    summary="List a run's artifacts",
    responses=answer(shown.ArtifactList) | errors("RUN_NOT_FOUND"),
)
async def list_run_artifacts(run_id: str, caller: Caller, database: Database) -> Response:
    """Finished artifacts, by name, also those of steps that the run kept from an earlier one."""

    def read(conn: Connection) -> list[Artifact]:
        readable(conn, caller, run_id)
        return artifacts_of(conn, run_id)

    found = await database.read(read)
    return json_response({"artifacts": [artifact_view(each, run_id) for each in found]})


@router.get(
    "/api/v1/step-runs/{step_run_id}/artifacts",
    dependencies=[allow("run.read")],
    summary="List a step run's artifacts",
    responses=answer(shown.ArtifactList) | errors("STEP_RUN_NOT_FOUND"),
)
async def list_step_run_artifacts(step_run_id: str, caller: Caller, database: Database) -> Response:
    """Finished artifacts of one attempt, by name."""
    found = await database.read(lambda conn: of_step_run(conn, caller, step_run_id))
    return json_response({"artifacts": [artifact_view(each) for each in found]})


def of_step_run(conn: Connection, caller: Principal, step_run_id: str) -> list[Artifact]:
    """The finished artifacts of an attempt; also for ``ListStepRunArtifacts``.

    Raises :class:`StepRunNotFound`, ``AUTH_INSUFFICIENT_PERMISSIONS``.
    """
    at = find_step_run(conn, step_run_id)
    if at is None or not caller.sees(entries.project_scope(at.run.project)):
        raise StepRunNotFound(step_run_id)
    require(caller, "run.read", at.run.project)
    return store.of_step_run(conn, step_run_id)


@router.get(
    "/api/v1/artifacts/{artifact_id}",
    dependencies=[allow("run.read")],
    summary="Show an artifact",
    responses=answer(shown.Artifact) | errors("ARTIFACT_NOT_FOUND"),
)
async def get_artifact(
    artifact_id: str, caller: Caller, database: Database, artifacts: ArtifactService
) -> Response:
    """Errors: ``ARTIFACT_NOT_FOUND``."""
    found = await database.read(lambda conn: artifacts.readable(conn, caller, artifact_id))
    return json_response(artifact_view(found))


@router.get(
    "/api/v1/artifacts/{artifact_id}/content",
    dependencies=[allow("run.read")],
    summary="Download an artifact",
    response_class=Response,
    responses=_CONTENT,
)
async def download_artifact(
    artifact_id: str,
    request: Request,
    caller: Caller,
    database: Database,
    artifacts: ArtifactService,
    transfer: TransferService,
) -> Response:
    """The content; with ``Range`` a part of it (206, or 416 for one outside of it). ``ETag`` is its SHA-256."""
    found = await database.read(lambda conn: artifacts.readable(conn, caller, artifact_id))
    return await _sent(request, transfer, found)


@router.get(
    "/api/v1/artifacts/{artifact_id}/signed",
    dependencies=[public()],
    summary="Download with a signed address",
    response_class=Response,
    responses=_CONTENT | errors("AUTH_TOKEN_INVALID", "AUTH_TOKEN_EXPIRED"),
)
async def download_signed_artifact(
    artifact_id: str,
    request: Request,
    caller: OptionalCaller,
    database: Database,
    artifacts: ArtifactService,
    transfer: TransferService,
    identity: IdentityService,
    signer: Signer,
    by: Annotated[str, Query(max_length=256, description="whom the address was made for")],
    expires: Annotated[int, Query(ge=0, le=2**53, description="Unix seconds")],
    signature: Annotated[str, Query(max_length=64)],
) -> Response:
    """As ``downloadArtifact``, with an address that the server has signed, and that needs no token if it was made
    for a user. Their rights are those at the time of the request."""
    signer.check("download", artifact_id, by, expires, signature)

    def read(conn: Connection) -> Artifact:
        return artifacts.readable(conn, _signed_for(conn, identity, by, caller), artifact_id)

    return await _sent(request, transfer, await database.read(read))


def _signed_for(conn: Connection, identity: Identity, by: str, caller: Principal | None) -> Principal:
    kind, _, id = by.partition("/")
    if kind == "agent":
        if caller is None or caller.key != by:
            raise AuthError("AUTH_TOKEN_INVALID", "This address is for another agent")
        return caller
    found = identity.principal_of(conn, id)
    if found is None:
        raise AuthError("AUTH_TOKEN_INVALID", "This address is for a user who is not active")
    return found


@router.delete(
    "/api/v1/artifacts/{artifact_id}",
    dependencies=[allow("artifact.delete")],
    summary="Delete an artifact",
    responses=answer(Done, example={"message": "Artifact dist deleted"}) | errors("ARTIFACT_NOT_FOUND"),
)
async def delete_artifact(artifact_id: str, change: Change, artifacts: ArtifactService) -> Response:
    """Nobody sees it any more; its bytes are deleted within minutes. Errors: ``ARTIFACT_NOT_FOUND``."""
    return json_response(await change(lambda tx, by: artifacts.delete(tx, by, artifact_id)))


async def _sent(request: Request, transfer: Transfer, artifact: Artifact) -> Response:
    if artifact.format == "link":
        return RedirectResponse(artifact.url)
    media = "application/zip" if artifact.format == "zip" else "application/octet-stream"
    return await sent(
        request,
        lambda start, stop: transfer.content(artifact, start, stop),
        size=artifact.size,
        sha256=artifact.sha256,
        file_name=artifact.file_name,
        media=media,
    )
