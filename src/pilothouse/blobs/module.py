"""The module of blobs and uploads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from pilothouse.access.quotas import Quotas
from pilothouse.blobs.assets import http as assets_http
from pilothouse.blobs.assets import store as asset_store
from pilothouse.blobs.assets.multipart import OVERHEAD
from pilothouse.blobs.assets.retention import AssetRetention
from pilothouse.blobs.assets.service import Assets
from pilothouse.blobs.assets.transfer import AssetTransfer
from pilothouse.blobs.http import router
from pilothouse.blobs.objects import LocalObjects
from pilothouse.blobs.s3 import Bucket, S3Objects
from pilothouse.blobs.service import Blobs
from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.identity.service import Identity

PRUNE_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """``directory``: of blobs, of which one has at most ``limit`` bytes. ``objects``: the directory of uploads and of
    what is being received; ``bucket``: where uploads are instead. ``max_upload``: bytes of one upload."""

    directory: Path
    limit: int
    objects: Path
    max_upload: int
    bucket: Bucket | None = None


def module(core: Core, settings: BlobSettings) -> Module:
    """Provides :class:`Blobs`, :class:`Assets`, :class:`AssetTransfer` and :class:`AssetRetention`."""
    identity, quotas = core.service(Identity), core.service(Quotas)
    blobs = Blobs(settings.directory, settings.limit, identity, quotas)
    assets = Assets(identity, quotas, settings.max_upload)
    objects = S3Objects(settings.bucket) if settings.bucket else LocalObjects(settings.objects)
    transfer = AssetTransfer(core.storage, assets, objects, settings.objects / "received")
    retention = AssetRetention(core.storage, objects)
    core.provide(blobs, assets, transfer, retention)
    identity.projects.on_delete(lambda tx, project: asset_store.delete_of_project(tx.conn, project))

    async def started() -> None:
        await blobs.clean(core.storage)
        await asyncio.to_thread(transfer.clean)

    return Module(
        "blobs",
        routers=(router, assets_http.router),
        envelope_prefixes=("/api/v1/uploads",),
        body_limits={
            "/api/v1/blobs": settings.limit + 1,
            "/api/v1/uploads": settings.max_upload + OVERHEAD,
        },
        background=(Periodic("blobs.uploads", retention.prune, every=PRUNE_EVERY, exclusive=True),),
        started=started,
    )
