"""Gates of runs."""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import Gate


class Gates:
    """``/gates``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(
        self, number: int = 1, limit: int = 20, *, run: str = "", status: str = "", kind: str = ""
    ) -> Page[Gate]:
        """The one opened last first. ``kind``: ``hold`` for those that wait for approvals."""
        params = {"page": number, "limit": limit, "run": run, "status": status, "kind": kind}
        return Page.native(await self._api.call("GET", "/gates", params=params), "gates")

    async def get(self, gate_id: str) -> Gate:
        """One gate; its id is the ``step_run_id`` of its step."""
        return cast(Gate, await self._api.call("GET", f"/gates/{quote(gate_id, safe='')}"))

    async def decide(self, gate_id: str, decision: Literal["approve", "reject"], comment: str = "") -> Gate:
        """Approve or reject a gate."""
        body = {"decision": decision, "comment": comment}
        path = f"/gates/{quote(gate_id, safe='')}"
        return cast(Gate, await self._api.call("POST", path, json=body, keyed=True))
