"""Health checks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pilothouse.wire.rest.base import Answer


class Alive(Answer):
    """The process runs."""

    status: Literal["ok"]
    version: str

    example: ClassVar[Any] = {"status": "ok", "version": "0.1.0"}


class Readiness(Answer):
    """Whether the server can serve; ``reason``: why not."""

    status: Literal["ready", "unavailable"]
    reason: str = ""

    example: ClassVar[Any] = {"status": "ready"}
