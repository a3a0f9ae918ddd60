"""Blobs: bounded, checksummed files on their way between clients and agents, such as a checkout."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.blobs import store
from pilothouse.blobs.errors import BlobInvalid, BlobNotFound, BlobTooLarge
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx

NeededByAgent = Callable[[Connection, str, str], bool]
"""Whether the agent with this id holds work that needs the blob with this id."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that was received; ``size`` in bytes."""

    id: str
    sha256: str
    size: int


class Blobs:
    """Files below one directory, known by id. A file is complete and on disk before it is known at all."""

    def __init__(self, root: Path, limit: int, identity: Identity) -> None:
        self._root = root
        self._limit = limit
        self._identity = identity
        self._needed_by_agent: list[NeededByAgent] = []
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)

    def agents_may_read(self, needed: NeededByAgent) -> None:
        """Let agents download what ``needed`` says that their work needs; each kind of work registers its own."""
        self._needed_by_agent.append(needed)

    async def receive(self, body: AsyncIterator[bytes], sha256: str) -> Blob:
        """Lay an upload on disk; ``sha256`` (hex), where given, must be its checksum.

        Nobody knows of it until :meth:`record`. Raises :class:`BlobTooLarge`, :class:`BlobInvalid`; then nothing
        is kept.
        """
        blob_id = str(uuid7())
        part = self._root / f"{blob_id}.part"
        try:
            digest, size = await self._fill(part, body)
            if sha256 and sha256.lower() != digest:
                raise BlobInvalid(f"the upload's sha256 is {digest}, not {sha256}")
            await asyncio.to_thread(_settle, part, self.path(blob_id))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Blob(blob_id, digest, size)

    def record(self, tx: Tx, by: Principal, project: str, blob: Blob) -> dict[str, Any]:
        """Make a received file known."""
        store.add_blob(
            tx.conn,
            id=blob.id,
            project=project,
            sha256=blob.sha256,
            size=blob.size,
            created_by=by.name,
            created_at=tx.now,
        )
        self._identity.audit(tx, by, "blob.upload", blob.id, {"size": blob.size, "sha256": blob.sha256})
        return {"id": blob.id, "sha256": blob.sha256, "size": blob.size}

    def discard(self, blob: Blob) -> None:
        """Drop a received file that nobody was told of."""
        self.path(blob.id).unlink(missing_ok=True)

    def unlink(self, ids: Iterable[str]) -> None:
        """Drop files that nobody knows any more, beside the event loop: a large one takes its time."""
        paths = [self.path(blob_id) for blob_id in ids]
        asyncio.get_running_loop().run_in_executor(None, _unlink, paths)

    async def _fill(self, part: Path, body: AsyncIterator[bytes]) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with part.open("wb") as file:
            async for chunk in body:
                size += len(chunk)
                if size > self._limit:
                    raise BlobTooLarge(f"an upload has at most {self._limit} bytes")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        return digest.hexdigest(), size

    def path(self, blob_id: str) -> Path:
        """Where a blob's bytes are."""
        return self._root / blob_id

    def readable(self, conn: Connection, by: Principal, blob_id: str) -> Path:
        """The file, for those who may read it: the project's users, and agents while they hold its work.

        Raises :class:`BlobNotFound` for everyone else.
        """
        blob = store.blob(conn, blob_id)
        if blob is None:
            raise BlobNotFound(blob_id)
        if by.kind == "agent":
            allowed = any(needed(conn, by.id, blob_id) for needed in self._needed_by_agent)
        else:
            allowed = by.may("blob.read", blob.project)
        if not allowed:
            raise BlobNotFound(blob_id)
        return self.path(blob_id)


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _settle(part: Path, final: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
