"""Use cases on tenants, which group projects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.access.quotas import Quotas, check_quota
from pilothouse.identity import tenant_store as store
from pilothouse.identity.audit import Trail
from pilothouse.identity.model import Tenant, check_no_id
from pilothouse.storage import Tx


class Tenants:
    """Creates, changes and deletes tenants. They grant no rights: those come from the projects."""

    def __init__(self, trail: Trail, quotas: Quotas) -> None:
        self._trail = trail
        self._quotas = quotas

    def create(self, tx: Tx, by: Principal, *, name: str, description: str = "") -> Tenant:
        """Create a tenant. Raises ``TENANT_ALREADY_EXISTS``, ``VALIDATION_FAILED``, :class:`QuotaExceeded`."""
        require(by, "tenant.write")
        self._check_name(tx.conn, name)
        check_quota("tenants", store.list_tenants(tx.conn, None, 0, 0)[1], self._quotas.tenants, "tenants")
        tenant = Tenant(str(uuid7()), name, description, tx.now, tx.now)
        store.insert_tenant(tx.conn, tenant)
        self._record(tx, by, "tenant.created", tenant, {})
        return tenant

    def get(self, conn: Connection, by: Principal, id: str) -> Tenant:
        """A tenant. Raises ``TENANT_NOT_FOUND``, also for one that groups no project of the caller."""
        tenant = self.find(conn, id)
        if by.among is not None and not self.counts(conn, by, [tenant]).get(id):
            raise _not_found(id)
        return tenant

    def find(self, conn: Connection, id: str) -> Tenant:
        """A tenant, whoever asks. Raises ``TENANT_NOT_FOUND``."""
        tenant = store.find_tenant(conn, id)
        if tenant is None:
            raise _not_found(id)
        return tenant

    def list(
        self, conn: Connection, by: Principal, *, page: int = 1, limit: int = 20
    ) -> tuple[list[Tenant], int]:
        """A page of the tenants that this principal sees, by name, and their number."""
        return store.list_tenants(conn, by.among, (page - 1) * limit, limit)

    def counts(self, conn: Connection, by: Principal, tenants: Iterable[Tenant]) -> dict[str, int]:
        """How many projects that this principal sees each of these tenants has, by id."""
        return store.count_projects(conn, [tenant.id for tenant in tenants], by.among)

    def update(
        self, tx: Tx, by: Principal, id: str, *, name: str | None = None, description: str | None = None
    ) -> Tenant:
        """Change the given fields. Raises ``TENANT_NOT_FOUND``, ``TENANT_ALREADY_EXISTS``."""
        require(by, "tenant.write")
        tenant = self.find(tx.conn, id)
        changes: dict[str, Any] = {}
        if name is not None and name != tenant.name:
            self._check_name(tx.conn, name)
            changes["name"] = name
        if description is not None and description != tenant.description:
            changes["description"] = description
        if not changes:
            return tenant
        store.update_tenant(tx.conn, id, **changes, updated_at=tx.now)
        tenant = self.find(tx.conn, id)
        self._record(tx, by, "tenant.updated", tenant, {"changed": sorted(changes)})
        return tenant

    def delete(self, tx: Tx, by: Principal, id: str) -> Tenant:
        """Delete a tenant without projects. Raises ``TENANT_NOT_FOUND``, ``TENANT_IN_USE``."""
        require(by, "tenant.write")
        tenant = self.find(tx.conn, id)
        number = store.count_projects(tx.conn, [id], None).get(id, 0)
        if number:
            raise Refusal.of(
                "TENANT_IN_USE",
                f"The tenant '{tenant.name}' has {number} projects; delete them or move them to another tenant",
                projects=number,
            )
        store.delete_tenant(tx.conn, id)
        self._record(tx, by, "tenant.deleted", tenant, {})
        return tenant

    def _record(self, tx: Tx, by: Principal, type: str, tenant: Tenant, more: dict[str, Any]) -> None:
        body = {"id": tenant.id, "name": tenant.name, **more}
        self._trail.record(tx, by, type, f"tenant/{tenant.id}", body)

    def _check_name(self, conn: Connection, name: str) -> None:
        check_no_id(name, "name")
        if store.tenant_named(conn, name) is not None:
            raise Refusal.of("TENANT_ALREADY_EXISTS", f"A tenant named '{name}' exists", name=name)


def _not_found(id: str) -> Refusal:
    return Refusal.of("TENANT_NOT_FOUND", f"No tenant with id '{id}' exists")
