"""Where the bytes of files are kept: the interface of object stores, and the one on local disk.

Keys are made by this server (letters, digits, hyphens, slashes) and are never given to clients. An object is
written once, as a whole, and does not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Protocol

from pilothouse.access.errors import Refusal

CHUNK = 256 << 10
"""Bytes read at once."""


class ObjectsUnavailable(Refusal):
    """The object store does not answer, or refuses; the request may be repeated."""

    code = "OBJECTS_UNAVAILABLE"

    def __init__(self, what: str) -> None:
        super().__init__(f"The object store cannot {what} now", headers={"Retry-After": "2"})


class ObjectMissing(Exception):
    """There is no object with this key."""


class ObjectStore(Protocol):
    """A store of immutable objects by key. Raises :class:`ObjectsUnavailable`."""

    async def put(self, key: str, file: Path) -> None:
        """Store the file's contents durably, and remove the file."""

    def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``stop`` (exclusive), in pieces. Raises :class:`ObjectMissing`."""

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; those that do not exist are no error."""


class LocalObjects:
    """Files below one directory, private to the server."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)

    async def put(self, key: str, file: Path) -> None:
        """See :class:`ObjectStore`."""
        try:
            await asyncio.to_thread(settle, file, self._root / key)
        except OSError as error:
            raise ObjectsUnavailable("store a file") from error

    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """See :class:`ObjectStore`."""
        try:
            file = await asyncio.to_thread((self._root / key).open, "rb")
        except FileNotFoundError:
            raise ObjectMissing(key) from None
        with file:
            file.seek(start)
            while start < stop:
                data = await asyncio.to_thread(file.read, min(CHUNK, stop - start))
                if not data:
                    raise ObjectMissing(key)
                start += len(data)
                yield data

    async def delete(self, keys: Collection[str]) -> None:
        """See :class:`ObjectStore`."""
        try:
            await asyncio.to_thread(self._unlink, list(keys))
        except OSError as error:
            raise ObjectsUnavailable("delete a file") from error

    def _unlink(self, keys: list[str]) -> None:
        for key in keys:
            path = self._root / key
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty yet, or never made
                if path.parent != self._root:
                    path.parent.rmdir()


def settle(part: Path, final: Path) -> None:
    """Move a complete file to its place, durably."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    if not final.parent.exists():
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(final.parent.parent)
    part.rename(final)
    sync_directory(final.parent)


def sync_directory(path: Path) -> None:
    """Make what was created in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
