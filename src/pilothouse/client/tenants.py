"""Tenants, which group projects."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import Tenant, TenantDeleted


class Tenants:
    """``/tenants``; a tenant is named by its id."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, number: int = 1, limit: int = 20) -> Page[Tenant]:
        """The visible tenants, by name."""
        params = {"page": number, "pageSize": limit}
        return Page.arcentra(await self._api.detail("GET", "/tenants", params=params))

    async def create(self, name: str, *, description: str = "") -> Tenant:
        """Create a tenant (admins)."""
        body = {"name": name, "description": description}
        return cast(Tenant, await self._api.detail("POST", "/tenants", json=body, keyed=True))

    async def update(self, id: str, *, name: str | None = None, description: str | None = None) -> Tenant:
        """Change name or description (admins)."""
        given = {"name": name, "description": description}
        body = {key: value for key, value in given.items() if value is not None}
        return cast(Tenant, await self._api.detail("PUT", _path(id), json=body))

    async def delete(self, id: str) -> TenantDeleted:
        """Delete a tenant without projects (admins)."""
        return cast(TenantDeleted, await self._api.detail("DELETE", _path(id)))


def _path(id: str) -> str:
    return f"/tenants/{quote(id, safe='')}"
