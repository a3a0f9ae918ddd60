"""LoginResult and logout; API tokens; registration tokens of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import (
    CreatedRegistrationToken,
    CreatedToken,
    LoginResult,
    LoginSession,
    Me,
    RegistrationToken,
    Token,
)


class Auth:
    """``/auth``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def login(self, username: str, password: str) -> LoginResult:
        """Exchange user name and password for a token. The client keeps using its own token."""
        body = {"username": username, "password": password}
        return cast(LoginResult, await self._api.call("POST", "/auth/login", json=body))

    async def logout(self) -> None:
        """Revoke the client's token."""
        await self._api.call("POST", "/auth/logout")

    async def me(self) -> Me:
        """The current user."""
        return cast(Me, await self._api.call("GET", "/auth/me"))

    async def change_password(self, current: str, new: str) -> None:
        """Change the user's own password; other logins end, API tokens stay valid."""
        body = {"current_password": current, "new_password": new}
        await self._api.call("POST", "/auth/password", json=body)


class Logins:
    """``/auth/sessions``: logins of the user; ``user``: of another one, or ``*`` for all (admins)."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, number: int = 1, limit: int = 20, *, user: str = "") -> Page[LoginSession]:
        """Newest first."""
        params = {"page": number, "limit": limit, "user": user}
        return Page.native(await self._api.call("GET", "/auth/sessions", params=params), "sessions")

    async def end(self, login_id: str) -> None:
        """End a login and its streams."""
        await self._api.call("DELETE", f"/auth/sessions/{login_id}")

    async def end_others(self, *, user: str = "") -> int:
        """End all logins but the one in use; returns their number."""
        answer = await self._api.call("DELETE", "/auth/sessions", params={"user": user})
        return int(answer["ended"])


class Tokens:
    """``/tokens``: the user's own API tokens."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(
        self,
        name: str,
        *,
        expires_in: int | None = None,
        role: str | None = None,
        projects: Sequence[str] | None = None,
    ) -> CreatedToken:
        """Create a token. ``expires_in`` in seconds, default: never; ``role`` limits it below its user, ``projects``
        (names or ids) to these."""
        body = _given({"name": name, "expires_in": expires_in, "role": role, "projects": projects})
        return cast(CreatedToken, await _shown_once(self._api, "/tokens", body))

    async def page(self, number: int = 1, limit: int = 20) -> Page[Token]:
        """Newest first."""
        return Page.native(
            await self._api.call("GET", "/tokens", params={"page": number, "limit": limit}), "tokens"
        )

    async def revoke(self, token_id: str) -> None:
        """Revoke a token and end its streams."""
        await self._api.call("DELETE", f"/tokens/{token_id}")


class RegistrationTokens:
    """``/registration-tokens``: tokens for the registration of agents (admins)."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(
        self,
        description: str = "",
        *,
        max_uses: int | None = None,
        expires_in: int | None = None,
        agents: Sequence[str] | None = None,
        projects: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
    ) -> CreatedRegistrationToken:
        """Create a registration token. ``expires_in`` in seconds.

        ``agents``: names or globs of existing agents that may register again; ``projects``: names or ids of
        projects whose work the agents get; ``labels``: ``KEY`` or ``KEY=VALUE``, the allowed labels.
        """
        body = _given({"description": description, "max_uses": max_uses, "expires_in": expires_in})
        body |= _given({"agents": agents, "projects": projects, "labels": labels})
        return cast(CreatedRegistrationToken, await _shown_once(self._api, "/registration-tokens", body))

    async def page(self, number: int = 1, limit: int = 20) -> Page[RegistrationToken]:
        """Newest first, without their secrets."""
        answer = await self._api.call("GET", "/registration-tokens", params={"page": number, "limit": limit})
        return Page.native(answer, "registration_tokens")

    async def revoke(self, token_id: str) -> None:
        """Revoke a registration token; registered agents are not affected."""
        await self._api.call("DELETE", f"/registration-tokens/{token_id}")


async def _shown_once(api: Api, path: str, body: Mapping[str, object]) -> Any:
    """Create a token. If the answer with its secret was lost, that token is revoked and another one created."""
    while True:
        made = await api.call("POST", path, json=body, keyed=True)
        if not made.get("secret_omitted"):
            return made
        await api.call("DELETE", f"{path}/{made['id']}")


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}
