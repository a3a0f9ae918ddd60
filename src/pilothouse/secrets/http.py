"""``/api/v1/secrets`` (Arcentra envelope): names are readable, values are write-only."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Change, Idem, allow, envelope
from pilothouse.identity.http.services import IdentityService
from pilothouse.secrets.errors import SecretNotFound
from pilothouse.secrets.service import Secret, Secrets, check_value
from pilothouse.storage import Tx
from pilothouse.wire.rest import secrets as shown
from pilothouse.wire.rest.secrets import CreateSecret, PutSecret

router = APIRouter(prefix="/api/v1/secrets", tags=["secrets"])

SecretService = Annotated[Secrets, provided(Secrets)]
PipelineId = Annotated[str, Query(max_length=256, description="of the pipeline, for scope pipeline")]
ScopeName = Annotated[shown.Scope, Query(description="whose secret; only with a name")]

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MISSING = errors("VALIDATION_FAILED", "PROJECT_NOT_FOUND", "PIPELINE_NOT_FOUND", "SECRET_NOT_FOUND")


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
    """The secrets of a project and of its pipelines without their values, by name; times in Unix seconds."""
    project = await identity.project_id(caller, projectId)
    require(caller, "secret.read", project)
    found = await database.read(lambda conn: secrets.names(conn, project))
    return envelope(listed([_view(secret) for secret in paging.cut(found)], paging, len(found)))


@router.post(
    "",
    dependencies=[allow("secret.write")],
    status_code=201,
    summary="Create a secret",
    responses=enveloped(shown.SecretInfo, 201)
    | errors("PROJECT_NOT_FOUND", "PIPELINE_NOT_FOUND", "SECRET_ALREADY_EXISTS", "QUOTA_EXCEEDED"),
)
async def create_secret(
    caller: Caller, body: CreateSecret, secrets: SecretService, identity: IdentityService, idem: Idem
) -> Response:
    """The value is encrypted at rest and never returned.

    Errors: ``VALIDATION_FAILED``, ``SECRET_ALREADY_EXISTS``, ``QUOTA_EXCEEDED``.
    """
    project = await identity.project_id(caller, body.projectId)
    pipeline = _pipeline(project, body.scope, body.scopeId)
    check_value(body.value)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        secrets.put(tx, by, project, body.name, body.value, pipeline, new=True)
        return _view(secrets.named(tx.conn, project, body.name, pipeline))

    return await idem(use_case, 201, envelope=True, permit=lambda _, by: require(by, "secret.write", project))


@router.get(
    "/{name}",
    dependencies=[allow("secret.read")],
    summary="Show a secret",
    responses=enveloped(shown.SecretInfo) | _MISSING,
)
async def get_secret(
    name: str,
    caller: Caller,
    secrets: SecretService,
    identity: IdentityService,
    database: Database,
    projectId: str = "",
    scope: ScopeName = "project",
    scopeId: PipelineId = "",
) -> Response:
    """By id or name, without its value. Errors: ``SECRET_NOT_FOUND``."""
    if _ID.fullmatch(name):
        return envelope(
            _view(await database.read(lambda conn: _by_id(conn, caller, secrets, name, "secret.read")))
        )
    project = await identity.project_id(caller, projectId)
    require(caller, "secret.read", project)
    pipeline = _pipeline(project, scope, scopeId)
    return envelope(_view(await database.read(lambda conn: secrets.named(conn, project, name, pipeline))))


@router.put(
    "/{name}",
    dependencies=[allow("secret.write")],
    summary="Set a secret",
    responses=enveloped(shown.SecretSet)
    | enveloped(shown.SecretSet, 201, example={"name": "DEPLOY_KEY", "created": True})
    | _MISSING
    | errors("QUOTA_EXCEEDED"),
)
async def put_secret(
    name: str,
    caller: Caller,
    body: PutSecret,
    secrets: SecretService,
    identity: IdentityService,
    change: Change,
) -> Response:
    """Set or replace a secret; the value is encrypted at rest and never returned. By its id, only ``value`` counts.

    Errors: ``VALIDATION_FAILED``, ``QUOTA_EXCEEDED``, ``SECRET_NOT_FOUND`` for an id.
    """
    check_value(body.value)
    if _ID.fullmatch(name):

        def replace(tx: Tx, by: Principal) -> str:
            found = _by_id(tx.conn, by, secrets, name, "secret.write")
            secrets.put(tx, by, found.project, found.name, body.value, found.pipeline)
            return found.name

        return envelope({"name": await change(replace), "created": False})
    project = await identity.project_id(caller, body.projectId)
    pipeline = _pipeline(project, body.scope, body.scopeId)

    def use_case(tx: Tx, by: Principal) -> bool:
        require(by, "secret.write", project)
        return secrets.put(tx, by, project, name, body.value, pipeline)

    created = await change(use_case)
    return envelope({"name": name, "created": created}, 201 if created else 200)


@router.delete(
    "/{name}",
    dependencies=[allow("secret.write")],
    summary="Delete a secret",
    responses=enveloped(shown.SecretDeleted) | _MISSING,
)
async def delete_secret(
    name: str,
    caller: Caller,
    secrets: SecretService,
    identity: IdentityService,
    change: Change,
    projectId: str = "",
    scope: ScopeName = "project",
    scopeId: PipelineId = "",
) -> Response:
    """By id or name. Steps that refer to it fail from now on. Errors: ``SECRET_NOT_FOUND``."""
    by_id = _ID.fullmatch(name) is not None
    project = "" if by_id else await identity.project_id(caller, projectId)
    pipeline = "" if by_id else _pipeline(project, scope, scopeId)

    def use_case(tx: Tx, by: Principal) -> str:
        if by_id:
            found = _by_id(tx.conn, by, secrets, name, "secret.write")
            secrets.delete(tx, by, found.project, found.name, found.pipeline)
            return found.name
        require(by, "secret.write", project)
        secrets.delete(tx, by, project, name, pipeline)
        return name

    return envelope({"name": await change(use_case)})


def _by_id(conn: Connection, by: Principal, secrets: Secrets, id: str, action: str) -> Secret:
    """Raises :class:`SecretNotFound`, also for one of a project that the caller may not see."""
    found = secrets.get(conn, id)
    if not by.in_project(found.project):
        raise SecretNotFound(id)
    require(by, action, found.project)
    return found


def _pipeline(project: str, scope: shown.Scope, scope_id: str) -> str:
    """The id of the pipeline that a scope names, ``""`` for the whole project. Raises ``VALIDATION_FAILED``."""
    if scope == "environment":
        message = "This server has no environments: a secret belongs to a project or to a pipeline"
        raise Refusal.of("VALIDATION_FAILED", message, field="scope")
    if scope == "pipeline":
        if not scope_id:
            raise Refusal.of("VALIDATION_FAILED", "scopeId is the id of the pipeline", field="scopeId")
        return scope_id
    if scope_id not in ("", project):
        raise Refusal.of("VALIDATION_FAILED", "scopeId is that of the project, or left out", field="scopeId")
    return ""


def _view(secret: Secret) -> dict[str, Any]:
    return {
        "secretId": secret.id,
        "name": secret.name,
        "projectId": secret.project,
        "scope": "pipeline" if secret.pipeline else "project",
        "scopeId": secret.pipeline or secret.project,
        "createdBy": secret.created_by,
        "createdAt": secret.created_at // 1000,
        "updatedAt": secret.updated_at // 1000,
    }
