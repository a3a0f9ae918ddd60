"""Uploads that are being received by this server, and what their callers may still send."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pilothouse.access.errors import Refusal
from pilothouse.access.quotas import Quotas, check_quota
from pilothouse.blobs.store import Use

MAX_AT_ONCE = 16
"""Uploads of one caller at the same time."""
RETRY_AFTER = "1"


@dataclass(slots=True)
class Upload:
    """One upload: ``reserved`` bytes are counted for it."""

    project: str
    user: str
    reserved: int


class Uploads:
    """Checks quotas before a body is received, and counts bodies while they are received."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._bytes_of_project: Counter[str] = Counter()
        self._bytes_of_user: Counter[str] = Counter()
        self._of_project: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()

    @contextlib.contextmanager
    def admitted(self, project: str, user: str, use: Use, size: int) -> Iterator[Upload]:
        """Count an upload of ``size`` bytes until it is recorded. ``use``: what is stored already.

        Raises :class:`QuotaExceeded`, ``CALLER_QUEUE_FULL`` for too many at once.
        """
        if self._of_user[user] >= MAX_AT_ONCE:
            message = (
                f"You have {MAX_AT_ONCE} uploads at once, the most allowed; try again when one has ended"
            )
            raise Refusal(message, code="CALLER_QUEUE_FULL", headers={"Retry-After": RETRY_AFTER})
        self._check(project, user, use, size)
        upload = Upload(project, user, size)
        self._count(upload, size, 1)
        try:
            yield upload
        finally:
            self._count(upload, -upload.reserved, -1)

    def _check(self, project: str, user: str, use: Use, size: int) -> None:
        quotas = self._quotas
        count = use.number + self._of_project[project]
        check_quota("files of this project", count, quotas.blob_count, "blob_count")
        stored = use.size + self._bytes_of_project[project]
        check_quota("bytes of files of this project", stored, quotas.blobs, "blobs", size)
        unused = use.unused + self._bytes_of_user[user]
        check_quota("bytes of your uploads that no run has used", unused, quotas.uploads, "uploads", size)

    def _count(self, upload: Upload, size: int, number: int) -> None:
        for counter, key, more in (
            (self._bytes_of_project, upload.project, size),
            (self._bytes_of_user, upload.user, size),
            (self._of_project, upload.project, number),
            (self._of_user, upload.user, number),
        ):
            counter[key] += more
            if not counter[key]:
                del counter[key]
