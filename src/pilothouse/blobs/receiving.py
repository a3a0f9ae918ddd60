"""Receives the body of an upload into a file, with its checksum."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from pilothouse.blobs.errors import BlobTooLarge


async def fill(part: Path, body: AsyncIterator[bytes], limit: int, *others: hashlib._Hash) -> tuple[str, int]:
    """Write a body to a file; returns its SHA-256 (hex) and size. ``others`` are updated too.

    Raises :class:`BlobTooLarge` for more than ``limit`` bytes.
    """
    digest, size = hashlib.sha256(), 0
    with part.open("wb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > limit:
                raise BlobTooLarge(f"an upload has at most {limit} bytes")
            digest.update(chunk)
            for other in others:
                other.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return digest.hexdigest(), size
