"""Refreshes the completion cache (``python -m pilothouse.cli.refresh SERVER CONTEXT``). Prints nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys

from pilothouse.cli.completion_cache import Cache
from pilothouse.cli.reference import short
from pilothouse.cli.session import PRODUCT, Common, Session
from pilothouse.client import PilotClient

_PATIENCE = 10.0
_RUNS, _OTHERS = 50, 100


def main(server: str, context: str) -> None:
    """Refresh the cache, unless another process is doing so."""
    cache = Cache(server, context)
    with contextlib.suppress(Exception), open(cache.asked, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        target = Session.of(Common(server=server or None, context=context or None)).target()
        cache.save(asyncio.run(_ask(target.server, target.token)))


async def _ask(server: str, token: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    async with (
        asyncio.timeout(_PATIENCE),
        PilotClient(server, token, timeout=_PATIENCE, product=PRODUCT) as client,
    ):
        runs = (await client.runs.page(limit=_RUNS)).items
        found["runs"] = [(short(run["id"]), f"{run['name']} {run['status']}") for run in runs]
        pipelines = (await client.pipelines.page(limit=_OTHERS)).items
        found["pipelines"] = [(pipeline["name"], "") for pipeline in pipelines]
        projects = (await client.projects.page(limit=_OTHERS)).items
        found["projects"] = [(project["name"], "") for project in projects]
        agents = (await client.agents.page(limit=_OTHERS)).items
        found["agents"] = [(agent["agent_id"], agent["status"]) for agent in agents]
    return found


if __name__ == "__main__":
    os.umask(0o077)
    main(*(sys.argv[1:3] if len(sys.argv) == 3 else ("", "")))
