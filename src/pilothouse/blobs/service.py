"""Blobs: bounded, checksummed files for the transfer between clients and agents, such as checkouts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.access.quotas import Quotas
from pilothouse.blobs import store
from pilothouse.blobs.errors import BlobInvalid, BlobNotFound
from pilothouse.blobs.objects import settle
from pilothouse.blobs.receiving import fill
from pilothouse.blobs.uploads import Uploads
from pilothouse.identity.service import Identity
from pilothouse.storage import Storage, Tx

NeededByAgent = Callable[[Connection, str, str], bool]
"""Whether the agent with this id holds work that needs the blob with this id."""


PAGE = 500
"""So many files are looked up at a time."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that was received; ``size`` in bytes."""

    id: str
    sha256: str
    size: int


class Blobs:
    """Files in one directory, by id. A file is completely on disk before it is recorded in the database."""

    def __init__(self, root: Path, limit: int, identity: Identity, quotas: Quotas) -> None:
        self.uploads = Uploads(quotas)
        self._root = root
        self.limit = limit
        self._identity = identity
        self._needed_by_agent: list[NeededByAgent] = []
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)

    def left_over(self) -> list[str]:
        """Delete uploads that an earlier process did not finish; returns the names of the other files."""
        names = []
        for path in self._root.iterdir():
            if path.suffix == ".part":
                path.unlink(missing_ok=True)
            else:
                names.append(path.name)
        return names

    async def clean(self, storage: Storage) -> None:
        """Delete files that no row names, of uploads that were received but not recorded. To be called at the start,
        before uploads are received."""
        names = await asyncio.to_thread(self.left_over)
        for first in range(0, len(names), PAGE):
            some = names[first : first + PAGE]
            known = await storage.read(lambda conn, some=some: store.existing_blobs(conn, some))  # type: ignore[misc]
            self.unlink(name for name in some if name not in known)

    def agents_may_read(self, needed: NeededByAgent) -> None:
        """Register a callback that decides whether an agent's work needs a blob, so that it may download it."""
        self._needed_by_agent.append(needed)

    async def receive(self, body: AsyncIterator[bytes], sha256: str) -> Blob:
        """Write an upload to disk; ``sha256`` (hex), if given, must be its checksum.

        It is not accessible before :meth:`record`. Raises ``PAYLOAD_TOO_LARGE``, :class:`BlobInvalid`; the file is
        then deleted.
        """
        blob_id = str(uuid7())
        part = self._root / f"{blob_id}.part"
        try:
            digest, size = await fill(part, body, self.limit)
            if sha256 and sha256.lower() != digest:
                raise BlobInvalid(f"the upload's sha256 is {digest}, not {sha256}")
            await asyncio.to_thread(settle, part, self.path(blob_id))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Blob(blob_id, digest, size)

    def record(self, tx: Tx, by: Principal, project: str, blob: Blob) -> dict[str, Any]:
        """Record a received file in the database. Raises ``PROJECT_NOT_FOUND``."""
        self._identity.projects.check(tx.conn, project)
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
        """Delete a received file that was not recorded."""
        self.path(blob.id).unlink(missing_ok=True)

    def unlink(self, ids: Iterable[str]) -> None:
        """Delete files that are no longer recorded, in a thread, since deleting a large file is slow."""
        paths = [self.path(blob_id) for blob_id in ids]
        asyncio.get_running_loop().run_in_executor(None, _unlink, paths)

    def path(self, blob_id: str) -> Path:
        """The path of a blob's file."""
        return self._root / blob_id

    def readable(self, conn: Connection, by: Principal, blob_id: str) -> Path:
        """The file, if the caller may read it: users of the project, and agents while they hold work that needs it.

        Raises :class:`BlobNotFound` for other callers.
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
