"""``/api/v1/secrets`` (Arcentra envelope): names are readable, values are write-only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Change, allow, envelope
from pilothouse.identity.http.services import IdentityService
from pilothouse.secrets.service import Secrets, check_value
from pilothouse.wire.rest import secrets as shown
from pilothouse.wire.rest.secrets import PutSecret

router = APIRouter(prefix="/api/v1/secrets", tags=["secrets"])

SecretService = Annotated[Secrets, provided(Secrets)]


@router.get(
    "",
    dependencies=[allow("secret.read")],
    summary="List secrets",
    responses=enveloped_list(shown.SecretInfo) | errors("PROJECT_NOT_FOUND"),
)
async def list_secrets(
    caller: Caller,
    paging: ArcentraPaged,
    secrets: SecretService,
    identity: IdentityService,
    database: Database,
    projectId: str = "",
) -> Response:
    """Names and times (Unix seconds) of a project's secrets, by name."""
    project = await identity.project_id(caller, projectId)
    require(caller, "secret.read", project)
    found = await database.read(lambda conn: secrets.names(conn, project))
    listing = [
        {
            "name": secret["name"],
            "createdBy": secret["created_by"],
            "createdAt": secret["created_at"] // 1000,
            "updatedAt": secret["updated_at"] // 1000,
        }
        for secret in paging.cut(found)
    ]
    return envelope(listed(listing, paging, len(found)))


@router.put(
    "/{name}",
    dependencies=[allow("secret.write")],
    summary="Set a secret",
    responses=enveloped(shown.SecretSet)
    | enveloped(shown.SecretSet, 201, example={"name": "DEPLOY_KEY", "created": True})
    | errors("PROJECT_NOT_FOUND", "QUOTA_EXCEEDED"),
)
async def put_secret(
    name: str,
    caller: Caller,
    body: PutSecret,
    secrets: SecretService,
    identity: IdentityService,
    change: Change,
) -> Response:
    """Set or replace a secret; the value is encrypted at rest and never returned.

    Errors: ``VALIDATION_FAILED``, ``QUOTA_EXCEEDED``.
    """
    project = await identity.project_id(caller, body.projectId)
    require(caller, "secret.write", project)
    check_value(body.value)
    created = await change(lambda tx, by: secrets.put(tx, by, project, name, body.value))
    return envelope({"name": name, "created": created}, 201 if created else 200)


@router.delete(
    "/{name}",
    dependencies=[allow("secret.write")],
    summary="Delete a secret",
    responses=enveloped(shown.SecretDeleted) | errors("PROJECT_NOT_FOUND", "SECRET_NOT_FOUND"),
)
async def delete_secret(
    name: str,
    caller: Caller,
    secrets: SecretService,
    identity: IdentityService,
    change: Change,
    projectId: str = "",
) -> Response:
    """Steps that refer to it fail from now on. Errors: ``SECRET_NOT_FOUND``."""
    project = await identity.project_id(caller, projectId)
    require(caller, "secret.write", project)
    await change(lambda tx, by: secrets.delete(tx, by, project, name))
    return envelope({"name": name})
