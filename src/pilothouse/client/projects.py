"""Projects and their members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import MemberInfo, Project, ProjectDeleted


class Projects:
    """``/projects``; a project is named by its id, a user by id or name."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, number: int = 1, limit: int = 20) -> Page[Project]:
        """The visible projects, by name."""
        params = {"page": number, "pageSize": limit}
        return Page.arcentra(await self._api.detail("GET", "/projects", params=params))

    async def create(self, name: str, *, description: str = "", members: Sequence[str] = ()) -> Project:
        """Create a project (admins)."""
        body = {"name": name, "description": description, "members": list(members)}
        return cast(Project, await self._api.detail("POST", "/projects", json=body, keyed=True))

    async def update(
        self,
        id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        tenant: str | None = None,
    ) -> Project:
        """Change name, description or tenant (its id, empty: none) (admins)."""
        given = {"name": name, "description": description, "tenantId": tenant}
        body = {key: value for key, value in given.items() if value is not None}
        return cast(Project, await self._api.detail("PUT", _path(id), json=body))

    async def delete(self, id: str) -> ProjectDeleted:
        """Delete a project with its pipelines, secrets and uploads (admins)."""
        return cast(ProjectDeleted, await self._api.detail("DELETE", _path(id)))

    async def members(self, id: str, number: int = 1, limit: int = 20) -> Page[MemberInfo]:
        """The members of a project, by name."""
        params = {"page": number, "pageSize": limit}
        return Page.arcentra(await self._api.detail("GET", f"{_path(id)}/members", params=params))

    async def add_member(self, id: str, user: str) -> Project:
        """Add a member (admins)."""
        return cast(Project, await self._api.detail("PUT", _member(id, user)))

    async def remove_member(self, id: str, user: str) -> Project:
        """Remove a member, also from open streams (admins)."""
        return cast(Project, await self._api.detail("DELETE", _member(id, user)))


def _path(id: str) -> str:
    return f"/projects/{quote(id, safe='')}"


def _member(id: str, user: str) -> str:
    return f"{_path(id)}/members/{quote(user, safe='')}"
