"""Moves the bytes of artifacts: parts from agents to the object store, and content from there to whoever reads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.blobs.errors import BlobTooLarge
from pilothouse.blobs.objects import ObjectMissing, ObjectStore
from pilothouse.blobs.receiving import fill
from pilothouse.engine.artifacts.errors import ArtifactInvalid, ArtifactNotFound, UploadOffset
from pilothouse.engine.artifacts.model import Artifact, State, pieces
from pilothouse.engine.artifacts.service import Artifacts
from pilothouse.storage import Storage

MAX_AT_ONCE = 16
"""Parts of one agent at the same time."""
MAX_HASHES = 1000
"""Uploads whose checksum this server computes as the parts arrive."""

log = structlog.get_logger("engine.artifacts")


@dataclass(slots=True)
class _Checksum:
    """The SHA-256 of the first ``size`` bytes of an artifact."""

    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class Transfer:
    """``staging``: a directory for parts that are being received."""

    def __init__(self, storage: Storage, artifacts: Artifacts, objects: ObjectStore, staging: Path) -> None:
        self._storage = storage
        self._artifacts = artifacts
        self._objects = objects
        self._staging = staging
        self._checksums: dict[str, _Checksum] = {}
        self._busy: set[str] = set()
        self._of_agent: dict[str, int] = {}

    def clean(self) -> None:
        """Delete what an earlier process did not receive completely. Blocks."""
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._staging.iterdir():
            path.unlink(missing_ok=True)

    async def part(
        self, by: Principal, artifact_id: str, offset: int, body: AsyncIterator[bytes], sha256: str
    ) -> Artifact:
        """Store the part that begins at ``offset``; the last one completes the artifact. ``sha256`` (hex): of the
        part, checked if it is given.

        Raises :class:`ArtifactNotFound`, :class:`UploadOffset`, :class:`ArtifactInvalid`,
        ``OBJECTS_UNAVAILABLE``, ``CALLER_QUEUE_FULL``.
        """
        artifact = await self._storage.read(lambda conn: self._artifacts.uploading(conn, by, artifact_id))
        if artifact.state is State.READY:
            return artifact
        if offset != artifact.received:
            raise UploadOffset(artifact.received)
        self._enter(by, artifact_id)
        try:
            if artifact.next_length:
                artifact = await self._receive(by, artifact, body, sha256)
            return await self._finish(artifact) if artifact.received == artifact.size else artifact
        finally:
            self._leave(by, artifact_id)

    def _enter(self, by: Principal, artifact_id: str) -> None:
        if artifact_id in self._busy or self._of_agent.get(by.id, 0) >= MAX_AT_ONCE:
            raise Refusal(
                "Another part is being received; try again shortly",
                code="CALLER_QUEUE_FULL",
                headers={"Retry-After": "1"},
            )
        self._busy.add(artifact_id)
        self._of_agent[by.id] = self._of_agent.get(by.id, 0) + 1

    def _leave(self, by: Principal, artifact_id: str) -> None:
        self._busy.discard(artifact_id)
        left = self._of_agent.pop(by.id) - 1
        if left:
            self._of_agent[by.id] = left

    async def _receive(
        self, by: Principal, artifact: Artifact, body: AsyncIterator[bytes], sha256: str
    ) -> Artifact:
        wanted, known = artifact.next_length, self._checksum(artifact)
        whole = known.digest.copy() if known else None
        part = self._staging / str(uuid7())
        key = artifact.key(artifact.received // artifact.part_size)
        try:
            digest, size = await fill(part, body, wanted, *([whole] if whole else []))
            if size != wanted:
                raise ArtifactInvalid(f"this part has {size} bytes, not {wanted}")
            if sha256 and sha256.lower() != digest:
                raise ArtifactInvalid(f"the part's sha256 is {digest}, not {sha256[:80]}")
            await self._objects.put(key, part)
        except BlobTooLarge:
            raise ArtifactInvalid(f"this part has more than {wanted} bytes") from None
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        try:
            counted = await self._storage.write(lambda tx: self._artifacts.received(tx, by, artifact, size))
        except ArtifactNotFound:
            await self._objects.delete([key])  # deleted meanwhile, perhaps after its parts were
            raise
        if whole is not None:
            self._keep(artifact.id, _Checksum(counted.received, whole))
        return counted

    def _checksum(self, artifact: Artifact) -> _Checksum | None:
        """Of what was received; ``None`` if another process has received some of it."""
        if not artifact.received:
            return _Checksum()
        known = self._checksums.get(artifact.id)
        return known if known is not None and known.size == artifact.received else None

    def _keep(self, artifact_id: str, checksum: _Checksum) -> None:
        self._checksums.pop(artifact_id, None)
        self._checksums[artifact_id] = checksum
        if len(self._checksums) > MAX_HASHES:
            self._checksums.pop(next(iter(self._checksums)))

    async def _finish(self, artifact: Artifact) -> Artifact:
        known = self._checksum(artifact)
        self._checksums.pop(artifact.id, None)
        digest = known.digest.hexdigest() if known else await self._read_back(artifact)
        if digest != artifact.sha256:
            await self._storage.write(lambda tx: self._artifacts.abandon(tx, artifact))
            raise ArtifactInvalid(f"the artifact's sha256 is {digest}, not {artifact.sha256}")
        return await self._storage.write(lambda tx: self._artifacts.complete(tx, artifact))

    async def _read_back(self, artifact: Artifact) -> str:
        digest = hashlib.sha256()
        async for data in self.content(artifact, 0, artifact.size):
            await asyncio.to_thread(digest.update, data)
        return digest.hexdigest()

    async def content(self, artifact: Artifact, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes ``start`` to ``stop`` (exclusive). Raises :class:`ArtifactNotFound` if a part is missing,
        ``OBJECTS_UNAVAILABLE``."""
        for piece in pieces(artifact, start, stop):
            try:
                async for data in self._objects.read(artifact.key(piece.part), piece.start, piece.stop):
                    yield data
            except ObjectMissing:
                log.error("artifact.part_missing", artifact_id=artifact.id, part=piece.part)
                raise ArtifactNotFound(artifact.id) from None
