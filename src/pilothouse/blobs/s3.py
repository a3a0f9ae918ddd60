"""Objects in a bucket of any S3-compatible store, through obstore.

obstore is imported with the first request, since a server that keeps its files on disk does not need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from pilothouse.blobs.objects import CHUNK, ObjectMissing, ObjectsUnavailable

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import S3Store

PART = 8 << 20
"""Bytes of one part; a larger file is sent in several (multipart upload), a few at once."""
PARTS_AT_ONCE = 2
DELETED_AT_ONCE = 500
NO_RANGES = "non-partial response"

log = structlog.get_logger("blobs.s3")


class BadBucket(ValueError):
    """The setting ``objects`` is not ``s3://BUCKET`` or ``s3://BUCKET/PREFIX``."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """``url``: ``s3://BUCKET/PREFIX``. Without keys, those of the environment or the machine's role are used."""

    url: str
    endpoint: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)

    @property
    def parts(self) -> tuple[str, str]:
        """Bucket and prefix. Raises :class:`BadBucket`."""
        scheme, _, rest = self.url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise BadBucket("PILOT_OBJECTS is s3://BUCKET or s3://BUCKET/PREFIX")
        return bucket, prefix.strip("/")


class S3Objects:
    """See :class:`pilothouse.blobs.objects.ObjectStore`."""

    def __init__(self, bucket: Bucket) -> None:
        bucket.parts  # noqa: B018  (raises BadBucket at the start of the server)
        self._bucket = bucket
        self._opening = asyncio.Lock()
        self._store: S3Store | None = None

    async def put(self, key: str, file: Path) -> None:
        """See :class:`ObjectStore`."""
        import obstore

        store = await self._opened()
        size = (await asyncio.to_thread(file.stat)).st_size
        try:
            await obstore.put_async(
                store, key, file, use_multipart=size > PART, chunk_size=PART, max_concurrency=PARTS_AT_ONCE
            )
        except Exception as error:
            raise _unavailable("store a file", error) from error
        await asyncio.to_thread(file.unlink, missing_ok=True)

    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """See :class:`ObjectStore`."""
        left = stop - start
        try:
            found, skip = await self._from(key, start, stop)
            async for chunk in found.stream(min_chunk_size=CHUNK):
                data = bytes(chunk)[skip:][:left]
                skip = max(0, skip - len(chunk))
                left -= len(data)
                if data:
                    yield data
                if left <= 0:
                    break
        except FileNotFoundError:
            raise ObjectMissing(key) from None
        except Exception as error:
            raise _unavailable("read a file", error) from error

    async def _from(self, key: str, start: int, stop: int) -> tuple[GetResult, int]:
        """The content, and how many bytes of it come before ``start``: some stores know no ranges."""
        import obstore
        from obstore.exceptions import GenericError

        store = await self._opened()
        if start:
            try:
                return await obstore.get_async(store, key, options={"range": (start, stop)}), 0
            except GenericError as error:
                if NO_RANGES not in str(error):
                    raise
        return await obstore.get_async(store, key), start

    async def delete(self, keys: Collection[str]) -> None:
        """See :class:`ObjectStore`."""
        import obstore

        store, waiting = await self._opened(), list(keys)
        while waiting:
            some, waiting = waiting[:DELETED_AT_ONCE], waiting[DELETED_AT_ONCE:]
            try:
                await obstore.delete_async(store, some)
            except FileNotFoundError:
                continue
            except Exception as error:
                raise _unavailable("delete a file", error) from error

    async def _opened(self) -> S3Store:
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(self._open)
            return self._store

    def _open(self) -> S3Store:
        from obstore.store import S3Store

        bucket, prefix = self._bucket.parts
        given: dict[str, Any] = {
            "endpoint": self._bucket.endpoint,
            "region": self._bucket.region,
            "access_key_id": self._bucket.access_key,
            "secret_access_key": self._bucket.secret_key,
        }
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=60),
                "allow_http": self._bucket.endpoint.startswith("http://"),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
            **{name: value for name, value in given.items() if value},
        )


def _unavailable(what: str, error: Exception) -> ObjectsUnavailable:
    # The text of the error may hold the address of the store, which is for the operator, and no key of ours.
    log.warning("objects.unavailable", what=what, reason=f"{type(error).__name__}: {error}"[:500])
    return ObjectsUnavailable(what)
