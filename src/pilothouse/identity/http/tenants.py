"""``/api/v1/tenants``, in the Arcentra envelope."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import Connection

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Change, Idem, allow, envelope
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import tenant_json
from pilothouse.identity.model import Tenant
from pilothouse.identity.service import Identity
from pilothouse.wire.rest import tenants as shown
from pilothouse.wire.rest.tenants import CreateTenant, UpdateTenant

router = APIRouter(prefix="/api/v1/tenants", tags=["tenants"])

_READ, _WRITE = [allow("tenant.read")], [allow("tenant.write")]
_TENANT = enveloped(shown.Tenant) | errors("TENANT_NOT_FOUND")


@router.get("", dependencies=_READ, summary="List tenants", responses=enveloped_list(shown.Tenant))
async def list_tenants(
    caller: Caller, identity: IdentityService, database: Database, paging: ArcentraPaged
) -> Response:
    """Those of your projects, by name; for operators and admins all."""

    def read(conn: Connection) -> tuple[list[dict[str, Any]], int]:
        found, total = identity.tenants.list(conn, caller, page=paging.page, limit=paging.limit)
        counts = identity.tenants.counts(conn, caller, found)
        return [tenant_json(tenant, counts.get(tenant.id, 0)) for tenant in found], total

    views, total = await database.read(read)
    return envelope(listed(views, paging, total))


@router.post(
    "",
    dependencies=_WRITE,
    status_code=201,
    summary="Create a tenant",
    responses=enveloped(shown.Tenant, 201) | errors("TENANT_ALREADY_EXISTS", "QUOTA_EXCEEDED"),
)
async def create_tenant(identity: IdentityService, idem: Idem, body: CreateTenant) -> Response:
    """Create a tenant; its name must be free. Projects name it in `tenantId`."""
    return await idem(
        lambda tx, by: tenant_json(
            identity.tenants.create(tx, by, name=body.name, description=body.description), 0
        ),
        envelope=True,
        permit=lambda _, by: require(by, "tenant.write"),
    )


@router.get("/{tenant}", dependencies=_READ, summary="Show a tenant", responses=_TENANT)
async def get_tenant(tenant: str, caller: Caller, identity: IdentityService, database: Database) -> Response:
    """Errors: ``TENANT_NOT_FOUND``, also for one without a project of yours."""

    def read(conn: Connection) -> dict[str, Any]:
        return _view(conn, identity, caller, identity.tenants.get(conn, caller, tenant))

    return envelope(await database.read(read))


@router.put(
    "/{tenant}",
    dependencies=_WRITE,
    summary="Change a tenant",
    responses=_TENANT | errors("TENANT_ALREADY_EXISTS"),
)
async def update_tenant(
    tenant: str, identity: IdentityService, change: Change, body: UpdateTenant
) -> Response:
    """Change name or description."""
    return envelope(
        await change(
            lambda tx, by: _view(
                tx.conn,
                identity,
                by,
                identity.tenants.update(tx, by, tenant, name=body.name, description=body.description),
            )
        )
    )


@router.delete(
    "/{tenant}",
    dependencies=_WRITE,
    summary="Delete a tenant",
    responses=enveloped(shown.TenantDeleted) | errors("TENANT_NOT_FOUND", "TENANT_IN_USE"),
)
async def delete_tenant(tenant: str, identity: IdentityService, change: Change) -> Response:
    """Only one without projects. Errors: ``TENANT_IN_USE``."""
    gone = await change(lambda tx, by: identity.tenants.delete(tx, by, tenant))
    return envelope({"tenantId": gone.id, "name": gone.name})


def _view(conn: Connection, identity: Identity, by: Principal, tenant: Tenant) -> dict[str, Any]:
    return tenant_json(tenant, identity.tenants.counts(conn, by, [tenant]).get(tenant.id, 0))
