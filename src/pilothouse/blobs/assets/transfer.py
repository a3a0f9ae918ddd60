"""Moves the bytes of uploads: bodies of requests to the object store, and content from there to whoever reads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from starlette.requests import ClientDisconnect
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.blobs.assets import store
from pilothouse.blobs.assets.model import Asset, Part, pieces
from pilothouse.blobs.assets.service import Assets
from pilothouse.blobs.errors import BlobTooLarge, UploadInvalid, UploadNotFound
from pilothouse.blobs.objects import ObjectMissing, ObjectStore
from pilothouse.blobs.receiving import fill
from pilothouse.edge.mutations import Mutation
from pilothouse.edge.pace import Pace
from pilothouse.storage import Storage, StorageError

MAX_AT_ONCE = 16
"""Bodies of one user at the same time."""
MAX_HASHES = 1000
"""Unfinished uploads whose checksum this server computes as the parts arrive."""

log = structlog.get_logger("blobs.uploads")


@dataclass(slots=True)
class _Checksum:
    """The SHA-256 of the first ``size`` bytes of an upload."""

    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Received:
    """The object ``key`` holds ``size`` bytes, whose SHA-256 is ``digest`` (hex)."""

    key: str
    size: int
    digest: str


class AssetTransfer:
    """``staging``: a directory for bodies that are being received."""

    def __init__(self, storage: Storage, assets: Assets, objects: ObjectStore, staging: Path) -> None:
        self._storage = storage
        self._assets = assets
        self._objects = objects
        self._staging = staging
        self._checksums: dict[str, _Checksum] = {}
        self._busy: set[str] = set()
        self._of_user: Counter[str] = Counter()
        self.parsing = Pace(1)
        """By user: the turns in which forms are parsed, so that many at once do not delay other requests."""

    def clean(self) -> None:
        """Delete what an earlier process did not receive completely. Blocks."""
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._staging.iterdir():
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def admitted(self, by: Principal, asset_id: str = "") -> Iterator[None]:
        """While one body of this user is received, the only one of that upload. Raises ``CALLER_QUEUE_FULL``."""
        if asset_id in self._busy:
            raise _busy("Another part of this upload is being received; try again when it has ended")
        if self._of_user[by.id] >= MAX_AT_ONCE:
            raise _busy(f"You have {MAX_AT_ONCE} uploads at once, the most allowed; try again later")
        self._of_user[by.id] += 1
        if asset_id:
            self._busy.add(asset_id)
        try:
            yield
        finally:
            self._busy.discard(asset_id)
            self._of_user[by.id] -= 1
            if not self._of_user[by.id]:
                del self._of_user[by.id]

    # -- one request sends all of it --------------------------------------------------------------------

    async def whole(self, asset: Asset, body: AsyncIterator[bytes]) -> Received:
        """Store a body of at most ``asset.size`` bytes as the only part of an upload that nobody sees yet.

        Raises :class:`BlobTooLarge`, ``OBJECTS_UNAVAILABLE``.
        """
        key = f"uploads/{asset.id}/{uuid7()}"
        await self._storage.write(lambda tx: store.add_part(tx.conn, key, asset.id, 0, tx.now))
        received = await self._store(key, body, asset.size)
        await self._storage.write(lambda tx: store.finish_part(tx.conn, key, received.size))
        return received

    async def abandon(self, asset: Asset) -> None:
        """Give up an upload that is not complete."""
        await self._storage.write(lambda tx: self._assets.abandon(tx, asset.id))

    # -- several requests send it -----------------------------------------------------------------------

    async def part(
        self,
        by: Principal,
        change: Mutation,
        asset_id: str,
        offset: int,
        body: AsyncIterator[bytes],
        sha256: str,
    ) -> Asset:
        """Store the part that begins at ``offset``; the last one completes the upload. ``sha256`` (hex): of the part,
        checked if it is given. Of a part that is cut, what has arrived is kept, unless it has a checksum.

        Raises :class:`UploadNotFound`, :class:`WrongOffset`, :class:`UploadInvalid`, ``OBJECTS_UNAVAILABLE``,
        ``CALLER_QUEUE_FULL``.
        """
        with self.admitted(by, asset_id):
            asset, key = await change(lambda tx, by: self._assets.announce(tx, by, asset_id, offset))
            body = _until_cut(body) if not sha256 else body
            whole = self._checksum(asset)
            asset = await self._receive(change, asset, key, body, sha256, whole)
            return await self._finish(change, asset) if asset.received == asset.size else asset

    async def _receive(
        self,
        change: Mutation,
        asset: Asset,
        key: str,
        body: AsyncIterator[bytes],
        sha256: str,
        whole: _Checksum | None,
    ) -> Asset:
        known = [whole.digest] if whole else []
        try:
            try:
                received = await self._store(key, body, asset.size - asset.received, *known)
            except BlobTooLarge:
                raise UploadInvalid(
                    f"the upload has {asset.size} bytes, and this part ends after that"
                ) from None
            if sha256 and sha256 != received.digest:
                raise UploadInvalid(f"the part's sha256 is {received.digest}, not {sha256}")
            if not received.size:
                await self._drop(key)
                return asset
            counted = await change(lambda tx, by: self._assets.stored(tx, by, asset, key, received.size))
        except Exception:
            await self._drop(key)
            raise
        if whole is not None:
            whole.size = counted.received
            self._keep(asset.id, whole)
        return counted

    async def _finish(self, change: Mutation, asset: Asset) -> Asset:
        known = self._checksum(asset)
        self._checksums.pop(asset.id, None)
        digest = known.digest.hexdigest() if known else await self._read_back(asset)
        if asset.sha256 and digest != asset.sha256:
            await self.abandon(asset)
            raise UploadInvalid(f"the upload's sha256 is {digest}, not {asset.sha256}; it is deleted")
        return await change(lambda tx, by: self._assets.complete(tx, by, asset.id, digest))

    async def _store(
        self, key: str, body: AsyncIterator[bytes], limit: int, *others: hashlib._Hash
    ) -> Received:
        part = self._staging / str(uuid7())
        try:
            digest, size = await fill(part, body, limit, *others)
            if size:
                await self._objects.put(key, part)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return Received(key, size, digest)

    async def _drop(self, key: str) -> None:
        """Forget a part that is not counted. What fails is done again by the retention of uploads."""
        with contextlib.suppress(Refusal, StorageError):
            await self._objects.delete([key])
            await self._storage.write(lambda tx: store.forget_parts(tx.conn, [key]))

    def _checksum(self, asset: Asset) -> _Checksum | None:
        """A copy, of what was received; ``None`` if another process has received some of it."""
        if not asset.received:
            return _Checksum()
        known = self._checksums.get(asset.id)
        if known is None or known.size != asset.received:
            return None
        return _Checksum(known.size, known.digest.copy())

    def _keep(self, asset_id: str, checksum: _Checksum) -> None:
        self._checksums.pop(asset_id, None)
        self._checksums[asset_id] = checksum
        if len(self._checksums) > MAX_HASHES:
            self._checksums.pop(next(iter(self._checksums)))

    async def _read_back(self, asset: Asset) -> str:
        digest = hashlib.sha256()
        parts = await self._storage.read(lambda conn: store.parts_of(conn, asset.id))
        async for data in self._content(asset, parts, 0, asset.size):
            await asyncio.to_thread(digest.update, data)
        return digest.hexdigest()

    # -- reading ----------------------------------------------------------------------------------------

    async def reader(self, asset: Asset) -> Callable[[int, int], AsyncIterator[bytes]]:
        """What gives bytes ``start`` to ``stop`` (exclusive) of a complete upload. Raises :class:`UploadNotFound` if
        a part is missing, ``OBJECTS_UNAVAILABLE``."""
        parts = await self._storage.read(lambda conn: store.parts_of(conn, asset.id))
        return lambda start, stop: self._content(asset, parts, start, stop)

    async def _content(self, asset: Asset, parts: list[Part], start: int, stop: int) -> AsyncIterator[bytes]:
        for key, first, last in pieces(parts, start, stop):
            try:
                async for data in self._objects.read(key, first, last):
                    yield data
            except ObjectMissing:
                log.error("upload.part_missing", upload_id=asset.id, key=key)
                raise UploadNotFound(asset.id) from None


async def _until_cut(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, which just ends when the client has gone."""
    with contextlib.suppress(ClientDisconnect):
        async for chunk in body:
            yield chunk


def _busy(message: str) -> Refusal:
    return Refusal(message, code="CALLER_QUEUE_FULL", headers={"Retry-After": "1"})
