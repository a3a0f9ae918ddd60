"""The module of blobs."""

from __future__ import annotations

from pathlib import Path

from pilothouse.access.quotas import Quotas
from pilothouse.blobs.http import router
from pilothouse.blobs.service import Blobs
from pilothouse.edge.module import Core, Module
from pilothouse.identity.service import Identity


def module(core: Core, directory: Path, limit: int) -> Module:
    """Provides :class:`Blobs`, stored in ``directory``; ``limit``: bytes of one upload."""
    blobs = Blobs(directory, limit, core.service(Identity), core.service(Quotas))
    core.provide(blobs)

    async def started() -> None:
        await blobs.clean(core.storage)

    return Module("blobs", routers=(router,), body_limits={"/api/v1/blobs": limit + 1}, started=started)
