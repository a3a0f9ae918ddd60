"""Settings of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pilothouse.client.api import Api
from pilothouse.client.types import SettingList


class ServerSettings:
    """``/settings`` (admins)."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def all(self) -> SettingList:
        """What is in force, and where each value comes from."""
        return cast(SettingList, await self._api.detail("GET", "/settings"))

    async def change(self, values: Mapping[str, Any]) -> SettingList:
        """Change settings by name; ``None``: as at the server's start."""
        body = {"settings": dict(values)}
        return cast(SettingList, await self._api.detail("PATCH", "/settings", json=body))
