"""Secrets: names are readable, values are write-only."""

from __future__ import annotations

from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page, collect
from pilothouse.client.types import SecretInfo

_MANY = 10_000


class Secrets:
    """``/secrets``; ``project`` empty is the default project."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def all(self, project: str = "") -> tuple[SecretInfo, ...]:
        """The project's secrets, without their values."""

        async def page(number: int, limit: int) -> Page[SecretInfo]:
            params = {"projectId": project, "page": number, "pageSize": limit}
            return Page.arcentra(await self._api.detail("GET", "/secrets", params=params))

        return await collect(page, _MANY)

    async def set(self, name: str, value: str, project: str = "") -> None:
        """Set or replace a secret."""
        body = {"value": value, "projectId": project}
        await self._api.detail("PUT", f"/secrets/{quote(name, safe='')}", json=body)

    async def delete(self, name: str, project: str = "") -> None:
        """Delete a secret; runs that refer to it are refused from then on."""
        await self._api.detail("DELETE", f"/secrets/{quote(name, safe='')}", params={"projectId": project})
