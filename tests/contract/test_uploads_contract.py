"""Uploads on every database: what crashes and other servers leave, expiry, quotas."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal, Role
from pilothouse.blobs.assets import store
from pilothouse.blobs.assets.model import Asset
from pilothouse.blobs.assets.retention import AssetRetention
from pilothouse.blobs.assets.service import Assets, Wanted
from pilothouse.blobs.assets.transfer import AssetTransfer
from pilothouse.blobs.objects import LocalObjects
from pilothouse.blobs.usage import use_of
from support.kernel import PROJECT, Kernel

ANN = Principal("user", "ann", "ann", Role.USER, frozenset({PROJECT}), "token", None)
DATA = bytes(range(256)) * 100


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Site:
    """A server that receives uploads of Ann; several of them share objects and database."""

    def __init__(self, kernel: Kernel, name: str = "one") -> None:
        self.kernel, self.assets = kernel, kernel.graph.service(Assets)
        self.root = Path(kernel.graph.settings.data_dir) / "objects"
        self.objects = LocalObjects(self.root)
        self.transfer = AssetTransfer(
            kernel.storage, self.assets, self.objects, self.root / f"received-{name}"
        )
        self.transfer.clean()

    async def change(self, use_case: Any) -> Any:
        """As a route makes changes."""
        return await self.kernel.write(lambda tx: use_case(tx, ANN))

    async def begin(self, size: int, **more: Any) -> Asset:
        wanted = Wanted(project=PROJECT, name="f", size=size, **{"resumable": True, **more})
        made: Asset = await self.change(lambda tx, by: self.assets.begin(tx, by, wanted))
        return made

    async def send(self, asset: Asset, offset: int, *pieces: bytes) -> Asset:
        change: Any = self.change
        return await self.transfer.part(ANN, change, asset.id, offset, body(*pieces), "")

    async def content(self, asset: Asset) -> bytes:
        read = await self.transfer.reader(asset)
        return b"".join([piece async for piece in read(0, asset.size)])

    async def prune(self) -> int:
        return await AssetRetention(self.kernel.storage, self.objects).prune()

    @property
    def files(self) -> int:
        """Objects and parts that are on disk."""
        return sum(path.is_file() for path in self.root.rglob("*"))


async def test_an_upload_that_is_given_up_is_deleted(kernel: Kernel) -> None:
    site = Site(kernel)
    asset, hidden = await site.begin(len(DATA)), await site.begin(500, resumable=False)
    await site.send(asset, 0, DATA[:1000])
    kernel.clock.advance(23 * 3600)
    assert (await site.prune(), site.files) == (0, 1)
    await site.send(asset, 1000, DATA[1000:2000])
    kernel.clock.advance(23 * 3600)
    assert (await site.prune(), site.files) == (1, 2), "the hidden one: a server has died"
    kernel.clock.advance(3600)
    assert (await site.prune(), site.files) == (1, 0)
    for gone in (asset, hidden):
        assert await kernel.write(lambda tx, id=gone.id: store.find(tx.conn, id)) is None  # type: ignore[misc]
    assert await kernel.write(lambda tx: use_of(tx.conn, PROJECT, "ann")) == (0, 0, 0)


async def test_what_a_crash_has_left_is_found(kernel: Kernel) -> None:
    """Of a part that was stored and not counted."""
    site = Site(kernel)
    asset = await site.begin(len(DATA))
    _, key = await site.change(lambda tx, by: site.assets.announce(tx, by, asset.id, 0))
    (site.root / "left").write_bytes(b"x")
    await site.objects.put(key, site.root / "left")
    done = await site.send(asset, 0, DATA)
    assert (done.state, await site.content(done)) == ("ready", DATA)
    kernel.clock.advance(25 * 3600)
    assert site.files == 2
    await site.prune()
    assert site.files == 1
    assert await site.content(done) == DATA


async def test_of_two_servers_one_counts(kernel: Kernel) -> None:
    first, second = Site(kernel), Site(kernel, "two")
    asset = await first.begin(len(DATA), sha256=hashlib.sha256(DATA).hexdigest())

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"else"
        await first.send(asset, 0, DATA[:1000])

    change: Any = second.change
    with pytest.raises(Refusal) as refused:
        await second.transfer.part(ANN, change, asset.id, 0, overtaken(), "")
    assert (refused.value.code, refused.value.details) == ("UPLOAD_OFFSET_CONFLICT", {"offset": 1000})
    assert first.files == 1
    # The other server, which has not seen the first part, computes the checksum of all of it.
    done = await second.send(asset, 1000, DATA[1000:])
    assert (done.state, await second.content(done)) == ("ready", DATA)


async def test_one_that_is_deleted_meanwhile_leaves_nothing(kernel: Kernel) -> None:
    site = Site(kernel)
    asset = await site.begin(len(DATA))

    async def deleted() -> AsyncIterator[bytes]:
        yield DATA[:1000]
        await site.change(lambda tx, by: site.assets.delete(tx, by, asset.id))
        await site.prune()

    change: Any = site.change
    with pytest.raises(Refusal) as refused:
        await site.transfer.part(ANN, change, asset.id, 0, deleted(), "")
    assert refused.value.code == "UPLOAD_NOT_FOUND"
    assert site.files == 0


async def test_parts_are_bounded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilothouse.blobs.assets.service.MAX_PARTS", 3)
    site = Site(kernel)
    asset = await site.begin(10)
    for offset in range(3):
        await site.send(asset, offset, b"x")
    with pytest.raises(Refusal) as refused:
        await site.send(asset, 3, b"x")
    assert (refused.value.code, site.files) == ("VALIDATION_FAILED", 3)
