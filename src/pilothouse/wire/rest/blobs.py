"""Uploaded files, and the checkouts made of them (docs/checkout.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Id


class Blob(Answer):
    """An uploaded file; ``size`` in bytes, ``sha256`` in hexadecimal."""

    id: Id
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Count

    example: ClassVar[Any] = {
        "id": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "size": 6,
    }


class KnownCheckout(Answer):
    """A commit that the server has, to ``depth`` (0: the whole history), and its packs in order."""

    commit: str
    depth: Count
    packs: list[Blob]


class KnownCommits(Answer):
    """The commits of a repository that need not be sent again, most recently used first."""

    commits: list[KnownCheckout]

    example: ClassVar[Any] = {
        "commits": [
            {"commit": "9fceb02d0ae598e95dc970b74767f19372d61af8", "depth": 1, "packs": [Blob.example]}
        ]
    }
