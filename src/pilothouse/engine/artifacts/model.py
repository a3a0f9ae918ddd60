"""Artifacts and the parts that they are stored in; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

PART_SIZE = 16 << 20
"""Bytes of a part: what an agent sends at once, and loses at most when a connection is cut."""
MAX_OF_RUN = 500
"""Artifacts of one run."""
MAX_NAME = 128
MAX_FILE_NAME = 255
MAX_LINK = 2000
"""Characters of the address of a linked artifact."""

_NAME = re.compile(r'[^\x00-\x1f\x7f"/\\:<>|*?]+')

Format = Literal["zip", "file", "link"]


class State(StrEnum):
    """``deleting``: nobody sees it any more, and its parts are being deleted."""

    UPLOADING = "uploading"
    READY = "ready"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One artifact. ``format``: a ``zip`` of ``files`` files (``unpacked`` bytes together), one ``file`` as it is, or
    a ``link`` to ``url``, which an agent keeps elsewhere.

    ``size`` in bytes, ``received`` of them are stored, in parts of ``part_size``. ``job`` and ``step`` are names,
    ``step_run_id`` is the attempt. Times in ms; ``expire_at`` 0: with its run.
    """

    id: str
    project: str
    run_id: str
    job: str
    step: str
    step_run_id: str
    agent_id: str
    name: str
    file_name: str
    format: Format
    url: str
    state: State
    size: int
    sha256: str
    files: int
    unpacked: int
    part_size: int
    received: int
    created_at: int
    ready_at: int
    expire_at: int

    @property
    def keys(self) -> list[str]:
        """The keys of all parts, also of those that were not stored."""
        parts = 0 if self.format == "link" else -(-self.size // self.part_size)
        return [self.key(number) for number in range(parts)]

    def key(self, part: int) -> str:
        """The key of a part, in the object store."""
        return f"artifacts/{self.id}/{part:06d}"

    @property
    def next_length(self) -> int:
        """The bytes of the part that is to be sent next."""
        return min(self.part_size, self.size - self.received)


def good_name(name: str) -> bool:
    """Whether an artifact or its file may have this name: it is a file's name on every system."""
    return bool(_NAME.fullmatch(name)) and name == name.strip() and not name.endswith(".")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` (exclusive) of a part."""

    part: int
    start: int
    stop: int


def pieces(artifact: Artifact, start: int, stop: int) -> list[Piece]:
    """Where bytes ``start`` to ``stop`` (exclusive) are."""
    size, found = artifact.part_size, []
    for part in range(start // size, -(-stop // size)):
        base = part * size
        found.append(Piece(part, max(0, start - base), min(size, stop - base)))
    return found
