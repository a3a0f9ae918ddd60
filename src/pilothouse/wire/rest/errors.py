"""Error bodies (decisions.md, "Everywhere" and "Arcentra")."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Seconds, Time


class Error(Answer):
    """An error. ``code`` is stable; ``error`` and ``message`` are for people.

    ``retry_after``: seconds, with ``RATE_LIMIT_EXCEEDED`` and ``CALLER_QUEUE_FULL``.
    """

    error: str
    message: str
    code: str
    details: dict[str, Any] = Field(default_factory=dict)
    timestamp: Time
    request_id: str
    retry_after: Annotated[int, Field(ge=0)] = 0

    example: ClassVar[Any] = {
        "error": "Run not found",
        "message": "No run with id '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10' exists",
        "code": "RUN_NOT_FOUND",
        "timestamp": "2026-01-31T10:50:00Z",
        "request_id": "req-abc123",
    }


class EnvelopeError(Answer):
    """An error of the Arcentra families: ``code`` is the HTTP status, ``errorCode`` the stable code."""

    code: Annotated[int, Field(ge=400, le=599)]
    errMsg: str
    path: str
    timestamp: Seconds
    errorCode: str
    requestId: str
    details: dict[str, Any] = Field(default_factory=dict)
    retry_after: Annotated[int, Field(ge=0)] = 0

    example: ClassVar[Any] = {
        "code": 404,
        "errMsg": "No pipeline with id '019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10' exists",
        "path": "/api/v1/pipelines/019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10",
        "timestamp": 1769856600,
        "errorCode": "PIPELINE_NOT_FOUND",
        "requestId": "req-abc123",
    }


class SpecProblem(Answer):
    """A problem of a spec; ``line`` and ``column`` count from 1 (0: the spec came as an object)."""

    severity: str
    message: str
    line: Annotated[int, Field(ge=0)]
    column: Annotated[int, Field(ge=0)]
    expected: str
    path: str
