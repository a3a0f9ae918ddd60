"""The use cases of uploads: begun, received in parts, and complete once their checksum is verified.

The object of a part is announced in the database before it is stored, and deleted before its row is; so what a crash
leaves behind is known, and is deleted by :mod:`pilothouse.blobs.assets.retention`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import require
from pilothouse.access.model import Principal, Role
from pilothouse.access.quotas import Quotas, check_quota
from pilothouse.blobs.assets import store
from pilothouse.blobs.assets.model import EXPIRY_MS, MAX_PARTS, Asset, State, good_name
from pilothouse.blobs.errors import BlobTooLarge, UploadIncomplete, UploadInvalid, UploadNotFound, WrongOffset
from pilothouse.blobs.usage import use_of
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of nothing."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller says of an upload: ``size`` in bytes, or the most that it may have if ``resumable`` is not set;
    ``sha256`` (hex) may be empty."""

    project: str
    name: str
    size: int
    sha256: str = ""
    resumable: bool = False


class Assets:
    """Every method is a use case in one transaction. ``limit``: bytes of one upload."""

    def __init__(self, identity: Identity, quotas: Quotas, limit: int) -> None:
        self._identity = identity
        self._quotas = quotas
        self.limit = limit

    # -- receiving --------------------------------------------------------------------------------------

    def begin(self, tx: Tx, by: Principal, wanted: Wanted) -> Asset:
        """A new upload, whose size counts towards the project's quotas from now on.

        Raises :class:`UploadInvalid`, :class:`BlobTooLarge`, :class:`QuotaExceeded`,
        ``AUTH_INSUFFICIENT_PERMISSIONS``.
        """
        require(by, "blob.write", wanted.project)
        self._identity.projects.check(tx.conn, wanted.project)
        checksum = checked_sha256(wanted.sha256)
        if wanted.resumable:
            check_name(wanted.name)
        if wanted.size > self.limit:
            raise BlobTooLarge(f"an upload has at most {self.limit} bytes (PILOT_MAX_UPLOAD)")
        if wanted.resumable and not wanted.size and checksum not in ("", EMPTY):
            raise UploadInvalid("the sha256 is not that of an empty file")
        number, size, _ = use_of(tx.conn, wanted.project, "")
        check_quota("files of this project", number, self._quotas.blob_count, "blob_count")
        check_quota("bytes of files of this project", size, self._quotas.blobs, "blobs", wanted.size)
        asset = Asset(
            id=str(uuid7()),
            project=wanted.project,
            name=wanted.name,
            size=wanted.size,
            received=0,
            sha256=checksum,
            state=State.UPLOADING if wanted.resumable else State.RECEIVING,
            creator_id=by.id,
            created_by=by.name,
            created_at=tx.now,
            ready_at=0,
            expire_at=tx.now + EXPIRY_MS,
        )
        store.add(tx.conn, asset)
        if wanted.resumable:
            detail = {"name": asset.name, "size": asset.size}
            self._identity.audit(tx, by, "upload.begin", asset.id, detail)
            if not asset.size:
                return self.complete(tx, by, asset.id, EMPTY)
        return asset

    def announce(self, tx: Tx, by: Principal, asset_id: str, offset: int) -> tuple[Asset, str]:
        """The upload, and the key of the object that its next part is going to be stored as.

        Raises :class:`UploadNotFound`, :class:`WrongOffset`, :class:`UploadInvalid` for too many parts.
        """
        asset = self.writable(tx.conn, by, asset_id)
        if asset.state is State.READY or offset != asset.received:
            raise WrongOffset(asset.received)
        if store.count_parts(tx.conn, asset_id) >= MAX_PARTS:
            raise UploadInvalid(f"an upload has at most {MAX_PARTS} parts; send larger ones")
        key = f"uploads/{asset_id}/{uuid7()}"
        store.add_part(tx.conn, key, asset_id, offset, tx.now)
        return asset, key

    def stored(self, tx: Tx, by: Principal, before: Asset, key: str, size: int) -> Asset:
        """Count a part whose object is stored. ``before``: the upload as it was when the part was announced.

        Raises :class:`UploadNotFound`, :class:`WrongOffset` if another part was stored meanwhile.
        """
        asset = self.writable(tx.conn, by, before.id)
        if asset.state is State.READY or asset.received != before.received:
            raise WrongOffset(asset.received)
        if not store.finish_part(tx.conn, key, size):
            raise UploadNotFound(asset.id)
        values = {"received": asset.received + size, "expire_at": tx.now + EXPIRY_MS}
        store.change(tx.conn, asset.id, **values)
        return replace(asset, **values)  # type: ignore[arg-type]

    def complete(
        self, tx: Tx, by: Principal, asset_id: str, digest: str, *, name: str = "", size: int | None = None
    ) -> Asset:
        """All bytes are stored, and ``digest`` is their verified SHA-256. ``name`` and ``size``: where they were not
        known before. Raises :class:`UploadNotFound`, ``AUTH_INSUFFICIENT_PERMISSIONS``."""
        asset = store.find(tx.conn, asset_id)
        if asset is None:
            raise UploadNotFound(asset_id)
        require(by, "blob.write", asset.project)
        if asset.state is State.READY:
            return asset
        size = asset.size if size is None else size
        done = replace(
            asset,
            name=name or asset.name,
            size=size,
            received=size,
            sha256=digest,
            state=State.READY,
            ready_at=tx.now,
            expire_at=0,
        )
        store.change(
            tx.conn,
            asset.id,
            name=done.name,
            size=size,
            received=size,
            sha256=digest,
            state=State.READY,
            ready_at=tx.now,
            expire_at=0,
        )
        detail = {"name": done.name, "size": size, "sha256": digest}
        self._identity.audit(tx, by, "upload.complete", asset.id, detail)
        return done

    def abandon(self, tx: Tx, asset_id: str) -> None:
        """Have what was received of an unfinished upload deleted."""
        asset = store.find(tx.conn, asset_id)
        if asset is not None and asset.state is not State.READY:
            store.change(tx.conn, asset_id, state=State.DELETING)

    # -- those who may see them -------------------------------------------------------------------------

    def writable(self, conn: Connection, by: Principal, asset_id: str) -> Asset:
        """An upload that the caller may continue or delete. Raises :class:`UploadNotFound`,
        ``AUTH_INSUFFICIENT_PERMISSIONS``."""
        asset = self.readable(conn, by, asset_id)
        require(by, "blob.write", asset.project)
        return asset

    def readable(self, conn: Connection, by: Principal, asset_id: str) -> Asset:
        """An upload of the caller's own, or in a project of theirs if they are operator or admin.

        Raises :class:`UploadNotFound`.
        """
        asset = store.find(conn, asset_id)
        if asset is None or asset.state is State.RECEIVING or not _sees(by, asset):
            raise UploadNotFound(asset_id)
        return asset

    def content_of(self, conn: Connection, by: Principal, asset_id: str) -> Asset:
        """The same, if it is complete. Raises :class:`UploadNotFound`, :class:`UploadIncomplete`."""
        asset = self.readable(conn, by, asset_id)
        if asset.state is not State.READY:
            raise UploadIncomplete(asset.received, asset.size)
        return asset

    def list(
        self, conn: Connection, by: Principal, project: str, page: int, limit: int
    ) -> tuple[list[Asset], int]:
        """A page of a project's uploads that the caller may see, newest first, and their number."""
        own = None if _sees_all(by) else by.id
        return store.listed(conn, project, own, (page - 1) * limit, limit)

    def delete(self, tx: Tx, by: Principal, asset_id: str) -> Asset:
        """Delete an upload, or end an unfinished one; its bytes are deleted in the background."""
        asset = self.writable(tx.conn, by, asset_id)
        store.change(tx.conn, asset.id, state=State.DELETING)
        detail = {"name": asset.name, "size": asset.size}
        self._identity.audit(tx, by, "upload.delete", asset.id, detail)
        return asset


def check_name(name: str) -> None:
    """Raises :class:`UploadInvalid`."""
    if not good_name(name):
        raise UploadInvalid(
            "the name of an upload is that of a file, without a path: it has 1 to 255 characters, no control "
            "characters, and no spaces at its ends"
        )


def checked_sha256(given: str) -> str:
    """A checksum as it is stored; it may be empty. Raises :class:`UploadInvalid`."""
    lower = given.strip().lower()
    if lower and not _SHA256.fullmatch(lower):
        raise UploadInvalid("a sha256 has 64 hexadecimal digits")
    return lower


def _sees(by: Principal, asset: Asset) -> bool:
    return (
        by.kind == "user"
        and by.may("blob.read", asset.project)
        and (_sees_all(by) or by.id == asset.creator_id)
    )


def _sees_all(by: Principal) -> bool:
    return by.role in (Role.OPERATOR, Role.ADMIN)
