"""Triggers of pipelines."""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import Trigger, TriggerDetail


class Triggers:
    """``/triggers``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(
        self, number: int = 1, limit: int = 20, *, project: str = "", pipeline: str = ""
    ) -> Page[Trigger]:
        """By pipeline, in the order of its spec; ``project`` and ``pipeline`` are ids."""
        params = {"page": number, "limit": limit, "project": project, "pipeline": pipeline}
        return Page.native(await self._api.call("GET", "/triggers", params=params), "triggers")

    async def get(self, trigger_id: str) -> TriggerDetail:
        """A trigger with its last fires."""
        return cast(TriggerDetail, await self._api.call("GET", _path(trigger_id)))

    async def switch(self, trigger_id: str, to: Literal["enable", "disable"]) -> TriggerDetail:
        """Enable a trigger, from now on with the caller's rights, or disable it."""
        answer = await self._api.call("POST", f"{_path(trigger_id)}/{to}", keyed=True)
        return cast(TriggerDetail, answer)

    async def run(self, trigger_id: str) -> str:
        """Start a run as the trigger would; returns its id."""
        answer = await self._api.call("POST", f"{_path(trigger_id)}/run", keyed=True)
        return str(answer["run_id"])


def _path(trigger_id: str) -> str:
    return f"/triggers/{quote(trigger_id, safe='')}"
