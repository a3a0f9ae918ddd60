"""SQL of tenants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from pilothouse.identity.model import Tenant
from pilothouse.identity.tables import projects, tenants


def insert_tenant(conn: Connection, tenant: Tenant) -> None:
    """Insert a tenant."""
    conn.execute(
        insert(tenants).values(
            id=tenant.id,
            name=tenant.name,
            description=tenant.description,
            created_at=tenant.created_at,
            updated_at=tenant.updated_at,
        )
    )


def find_tenant(conn: Connection, id: str) -> Tenant | None:
    """The tenant with this id."""
    row = conn.execute(select(tenants).where(tenants.c.id == id)).first()
    return None if row is None else _tenant(row)


def tenant_named(conn: Connection, name: str) -> str | None:
    """The id of the tenant with this name."""
    return conn.execute(select(tenants.c.id).where(tenants.c.name == name)).scalar_one_or_none()


def list_tenants(
    conn: Connection, among: Iterable[str] | None, offset: int, limit: int
) -> tuple[list[Tenant], int]:
    """A page of tenants by name (``among``: only those of these projects), and their number."""
    chosen = select(tenants)
    if among is not None:
        theirs = select(projects.c.tenant_id).where(projects.c.id.in_(sorted(among)))
        chosen = chosen.where(tenants.c.id.in_(theirs))
    total = conn.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()
    rows = conn.execute(chosen.order_by(tenants.c.name).offset(offset).limit(limit))
    return [_tenant(row) for row in rows], int(total)


def update_tenant(conn: Connection, id: str, **values: Any) -> None:
    """Set columns of a tenant."""
    conn.execute(update(tenants).where(tenants.c.id == id).values(**values))


def delete_tenant(conn: Connection, id: str) -> None:
    """Delete a tenant."""
    conn.execute(delete(tenants).where(tenants.c.id == id))


def count_projects(conn: Connection, ids: Iterable[str], among: Iterable[str] | None) -> dict[str, int]:
    """How many projects (``among``: only of these) each of these tenants has."""
    query = select(projects.c.tenant_id, func.count()).where(projects.c.tenant_id.in_(list(ids)))
    if among is not None:
        query = query.where(projects.c.id.in_(sorted(among)))
    return {row[0]: int(row[1]) for row in conn.execute(query.group_by(projects.c.tenant_id))}


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(row.id, row.name, row.description, row.created_at, row.updated_at)
