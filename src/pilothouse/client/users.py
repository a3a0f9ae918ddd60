"""Users (admins)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import User


class Users:
    """``/users``; a user is named by id or name."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(
        self, number: int = 1, limit: int = 20, *, role: str = "", active: bool | None = None
    ) -> Page[User]:
        """Users by name; ``active``: only active users, or only deactivated ones."""
        params = {"page": number, "limit": limit, "role": role}
        if active is not None:
            params["active"] = str(active).lower()
        return Page.native(await self._api.call("GET", "/users", params=params), "users")

    async def get(self, user: str) -> User:
        """One user."""
        return cast(User, await self._api.call("GET", _path(user)))

    async def create(
        self,
        username: str,
        password: str,
        *,
        role: str = "user",
        email: str = "",
        projects: Sequence[str] | None = None,
    ) -> User:
        """Create a user; ``projects`` are ids, default: the default project."""
        body: dict[str, object] = {"username": username, "password": password, "role": role, "email": email}
        if projects is not None:
            body["projects"] = list(projects)
        return cast(User, await self._api.call("POST", "/users", json=body, keyed=True))

    async def update(
        self, user: str, *, role: str | None = None, email: str | None = None, active: bool | None = None
    ) -> User:
        """Change the given fields; takes effect immediately, also on open streams."""
        given = {"role": role, "email": email, "active": active}
        body = {key: value for key, value in given.items() if value is not None}
        return cast(User, await self._api.call("PATCH", _path(user), json=body))

    async def set_password(self, user: str, password: str) -> None:
        """Set a new password; the user's logins end."""
        await self._api.call("POST", f"{_path(user)}/password", json={"password": password})


def _path(user: str) -> str:
    return f"/users/{quote(user, safe='')}"
