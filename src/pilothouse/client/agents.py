"""Agents."""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import Agent


class Agents:
    """``/agents``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(
        self, number: int = 1, limit: int = 20, *, platform: str = "", status: str = "", region: str = ""
    ) -> Page[Agent]:
        """Agents by name."""
        params = {"page": number, "limit": limit, "platform": platform, "status": status, "region": region}
        return Page.native(await self._api.call("GET", "/agents", params=params), "agents")

    async def get(self, agent_id: str) -> Agent:
        """One agent, by its name."""
        return cast(Agent, await self._api.call("GET", f"/agents/{quote(agent_id, safe='')}"))

    async def set_status(self, agent_id: str, status: Literal["online", "draining"]) -> Agent:
        """``draining``: the agent finishes its work and gets no new work; ``online``: ends draining."""
        path = f"/agents/{quote(agent_id, safe='')}"
        return cast(Agent, await self._api.call("PATCH", path, json={"status": status}))

    async def remove(self, agent_id: str) -> None:
        """Remove an agent: its token is revoked, and its work is lost."""
        await self._api.call("DELETE", f"/agents/{quote(agent_id, safe='')}")
