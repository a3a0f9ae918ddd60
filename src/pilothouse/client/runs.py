"""Runs of every kind."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, cast
from urllib.parse import quote

import httpx
import orjson

from pilothouse.client.api import Api
from pilothouse.client.paging import Page
from pilothouse.client.types import LogChunk, Run, RunSummary

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

    async def get(self, run_id: str) -> Run:
        """A run with its jobs, steps and attempts."""
        return cast(Run, await self._api.call("GET", _path(run_id)))

    async def cancel(self, run_id: str, reason: str = "", *, force: bool = False) -> RunSummary:
        """Cancel a run; it has ended when ``run.completed`` is received. ``force``: without cleanup steps."""
        body = {"reason": reason} | ({"force": True} if force else {})
        return cast(
            RunSummary, await self._api.call("POST", f"{_path(run_id)}/cancel", json=body, keyed=True)
        )

    async def pause(self, run_id: str) -> RunSummary:
        """Start nothing more of a run until it is resumed."""
        return cast(RunSummary, await self._api.call("POST", f"{_path(run_id)}/pause", keyed=True))

    async def resume(self, run_id: str) -> RunSummary:
        """Let a paused run go on."""
        return cast(RunSummary, await self._api.call("POST", f"{_path(run_id)}/resume", keyed=True))

    async def rerun(self, run_id: str, start: Literal["start", "failed"] = "start") -> RunSummary:
        """Create a new run of the same spec, files and variables; from ``failed`` it keeps succeeded steps."""
        answer = await self._api.call("POST", f"{_path(run_id)}/rerun", json={"from": start}, keyed=True)
        return cast(RunSummary, answer)

    async def logs(self, run_id: str, *, job: str = "", step: str = "") -> AsyncGenerator[str, None]:
        """The log lines so far, streamed; filtered by the names ``job`` and ``step``."""
        async with aclosing(self._lines(run_id, {"job": job, "step": step})) as lines:
            async for line in lines:
                yield line

    async def log_chunks(
        self,
        run_id: str,
        *,
        job: str = "",
        step: str = "",
        step_runs: Sequence[str] = (),
        since: str = "",
        tail: int | None = None,
    ) -> AsyncGenerator[LogChunk, None]:
        """The log so far in chunks; the last one has the cursor from which :meth:`watch_run` continues.

        ``step_runs``: ids of at most 50 attempts; ``since``: RFC 3339; ``tail``: only the last N lines.
        """
        narrowed = {"job": job, "step": step, "step_run": list(step_runs), "since": since, "tail": tail}
        async with aclosing(self._lines(run_id, {**narrowed, "format": "ndjson"})) as lines:
            async for line in lines:
                yield orjson.loads(line)

    async def _lines(self, run_id: str, params: Mapping[str, Any]) -> AsyncGenerator[str, None]:
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
