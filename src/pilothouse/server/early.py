"""Answers below the framework: to a connection or request that it never gets to see."""

from __future__ import annotations

from http import HTTPStatus

import orjson
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.edge.headers import completed
from pilothouse.storage import now_ms
from pilothouse.wire.times import rfc3339


def early_answer(error: Refusal) -> bytes:
    """A whole HTTP response with the usual error body, after which the connection ends."""
    pairs, body = early_parts(error)
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()
    return b"\r\n".join([status, *(name + b": " + value for name, value in pairs), b"", body])


def early_parts(error: Refusal) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of such an answer."""
    request_id = f"req-{uuid7()}"
    body = orjson.dumps(
        {
            "error": error.error,
            "message": error.message,
            "code": error.code,
            "timestamp": rfc3339(now_ms()),
            "request_id": request_id,
        }
    )
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": request_id,
        **error.headers,
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return completed(pairs, api=True), body
