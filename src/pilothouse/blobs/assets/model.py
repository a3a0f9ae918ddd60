"""Uploads of users, and the parts that they are stored in; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_NAME = 255
MAX_PARTS = 1000
"""Parts of one upload: each request that continues it makes one, as does one that is cut."""
EXPIRY_MS = 24 * 3600 * 1000
"""An upload that is not complete is deleted so long after its last part."""

_NAME = re.compile(r"[^\x00-\x1f\x7f/\\\ud800-\udfff]{1,255}")


class State(StrEnum):
    """``receiving``: one request sends all of it, and nobody sees it; ``uploading``: it is sent in several;
    ``deleting``: nobody sees it any more, and its parts are being deleted."""

    RECEIVING = "receiving"
    UPLOADING = "uploading"
    READY = "ready"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One upload. ``size`` in bytes, of which ``received`` are stored; ``sha256`` (hex): as announced until it is
    ready, empty if it was not. ``creator_id`` is the user's id, ``created_by`` their name. Times in ms;
    ``expire_at``: when it is deleted unless it goes on, 0 if it is ready."""

    id: str
    project: str
    name: str
    size: int
    received: int
    sha256: str
    state: State
    creator_id: str
    created_by: str
    created_at: int
    ready_at: int
    expire_at: int


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``start`` to ``start + size`` of an upload, stored as the object ``key``."""

    key: str
    start: int
    size: int


def good_name(name: str) -> bool:
    """Whether a file may have this name: it has no path, and no control characters."""
    return bool(_NAME.fullmatch(name)) and name not in (".", "..") and name == name.strip()


def base_name(name: str) -> str:
    """The name without a path: some clients send that of the file on their machine (RFC 7578, 4.2)."""
    return re.split(r"[/\\]", name)[-1].strip()


def pieces(parts: Sequence[Part], start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """Where bytes ``start`` to ``stop`` (exclusive) are: keys, and the bytes of each."""
    for part in parts:
        first, last = max(start, part.start), min(stop, part.start + part.size)
        if first < last:
            yield part.key, first - part.start, last - part.start
