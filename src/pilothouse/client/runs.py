"""Runs of every kind."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from typing import Literal, cast
from urllib.parse import quote

import httpx

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.shapes import RunSummary, RunView

_LOG_IDLE = 120.0


class Runs:
    """``/workflow-runs``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(
        self, number: int = 1, limit: int = 20, *, kind: str = "", status: str = "", pipeline: str = ""
    ) -> Page[RunSummary]:
        """Newest first; ``pipeline`` is an id."""
        params = {"page": number, "limit": limit, "kind": kind, "status": status, "pipeline": pipeline}
        return Page.native(await self._api.call("GET", "/workflow-runs", params=params), "runs")

    async def get(self, run_id: str) -> RunView:
        """A run with its jobs, steps and attempts."""
        return cast(RunView, await self._api.call("GET", _path(run_id)))

    async def cancel(self, run_id: str, reason: str = "") -> RunSummary:
        """Ask for the run to stop; it is over when ``run.completed`` comes."""
        answer = await self._api.call("POST", f"{_path(run_id)}/cancel", json={"reason": reason}, keyed=True)
        return cast(RunSummary, answer)

    async def rerun(self, run_id: str, start: Literal["start", "failed"] = "start") -> RunSummary:
        """A new run of the same; from ``failed`` it keeps what succeeded."""
        answer = await self._api.call("POST", f"{_path(run_id)}/rerun", json={"from": start}, keyed=True)
        return cast(RunSummary, answer)

    async def logs(self, run_id: str, *, job: str = "", step: str = "") -> AsyncGenerator[str, None]:
        """The log lines so far, as they arrive; ``job`` and ``step`` (names) narrow them."""
        params = {"job": job, "step": step}
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        try:
            async with self._api.stream(
                f"{_path(run_id)}/logs", params=params, read_timeout=_LOG_IDLE
            ) as answer:
                async for chunk in answer.aiter_bytes():
                    *lines, rest = (rest + decoder.decode(chunk)).split("\n")
                    for line in lines:
                        yield line
        except httpx.TransportError as error:
            raise self._api.unreachable(error) from error
        if rest:
            yield rest


def _path(run_id: str) -> str:
    return f"/workflow-runs/{quote(run_id, safe='')}"
