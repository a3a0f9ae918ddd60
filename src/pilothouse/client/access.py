"""Logging in and out; API tokens; registration tokens of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.shapes import (
    Login,
    Me,
    NewRegistrationToken,
    NewToken,
    RegistrationToken,
    Token,
)


class Auth:
    """``/auth``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def login(self, username: str, password: str) -> Login:
        """Trade name and password for a token. The client goes on with the token it was made with."""
        body = {"username": username, "password": password}
        return cast(Login, await self._api.call("POST", "/auth/login", json=body))

    async def logout(self) -> None:
        """End the token in use."""
        await self._api.call("POST", "/auth/logout")

    async def me(self) -> Me:
        """The user behind the token."""
        return cast(Me, await self._api.call("GET", "/auth/me"))

    async def change_password(self, current: str, new: str) -> None:
        """One's own; other logins end, API tokens stay good."""
        body = {"current_password": current, "new_password": new}
        await self._api.call("POST", "/auth/password", json=body)


class Tokens:
    """``/tokens``: API tokens of one's own."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(self, name: str, *, expires_in: int | None = None, role: str | None = None) -> NewToken:
        """``expires_in`` in seconds, never if left out; ``role`` limits it below its user."""
        body = {"name": name, "expires_in": expires_in, "role": role}
        return cast(NewToken, await self._api.call("POST", "/tokens", json=_given(body), keyed=True))

    async def page(self, number: int = 1, limit: int = 20) -> Page[Token]:
        """Newest first."""
        return Page.native(
            await self._api.call("GET", "/tokens", params={"page": number, "limit": limit}), "tokens"
        )

    async def revoke(self, token_id: str) -> None:
        """End a token and the streams it opened."""
        await self._api.call("DELETE", f"/tokens/{token_id}")


class RegistrationTokens:
    """``/registration-tokens``: what new agents register with (admins)."""

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
    ) -> NewRegistrationToken:
        """``expires_in`` in seconds.

        ``agents``: names or globs of existing agents that it may register anew; ``projects``: names or ids of
        those whose work the agents get; ``labels``: ``KEY`` or ``KEY=VALUE``, those that agents may have.
        """
        body = _given({"description": description, "max_uses": max_uses, "expires_in": expires_in})
        body |= _given({"agents": agents, "projects": projects, "labels": labels})
        answer = await self._api.call("POST", "/registration-tokens", json=body, keyed=True)
        return cast(NewRegistrationToken, answer)

    async def all(self) -> tuple[RegistrationToken, ...]:
        """Every one, without its secret."""
        answer = await self._api.call("GET", "/registration-tokens")
        return tuple(answer["registration_tokens"])

    async def revoke(self, token_id: str) -> None:
        """Agents that have registered with it stay."""
        await self._api.call("DELETE", f"/registration-tokens/{token_id}")


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}
