"""Closing of WebSockets: close codes, and the ``error`` message before the close."""

from __future__ import annotations

from typing import Any

import orjson

from pilothouse.access.errors import Refusal
from pilothouse.edge.streaming import MessageSocket
from pilothouse.engine.errors import RunNotFound
from pilothouse.journal import CursorError, CursorExpired
from pilothouse.storage import now_ms
from pilothouse.wire.times import rfc3339_ms

GOING_AWAY = 1001
CLOSE_CODES = {
    "bad_request": 4400,
    "unauthorized": 4401,
    "forbidden": 4403,
    "not_found": 4404,
    "no_pong": 4408,
    "cursor_expired": 4410,
    "rate_limited": 4429,
}


class StreamRefusal(Exception):
    """A refused stream: sent as an ``error`` message, then as a close code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def refuse(socket: MessageSocket, error: Exception, *, channel: str = "") -> None:
    """Send the error, then close with its code; with a ``channel``, in the envelope of the Arcentra page."""
    code, message = _refusal(error)
    stamp = rfc3339_ms(now_ms())
    body: dict[str, Any] = {"type": "error", "code": code, "message": message, "timestamp": stamp}
    if channel:
        body |= {"channel": channel, "params": {}, "data": None, "error": message}
    socket.say(orjson.dumps(body))
    socket.close(CLOSE_CODES[code], close_reason(message))


def close_reason(text: str) -> str:
    """The text truncated to the 123 bytes that a close frame can hold."""
    return text.encode()[:120].decode(errors="ignore")


def _refusal(error: Exception) -> tuple[str, str]:
    match error:
        case StreamRefusal():
            return error.code, str(error)
        case RunNotFound():
            return "not_found", str(error)
        case CursorExpired():
            return "cursor_expired", str(error)
        case CursorError():
            return "bad_request", str(error)
        case Refusal(status=429):
            return "rate_limited", error.message
        case Refusal(status=403):
            return "forbidden", error.message
        case Refusal():
            return "unauthorized", error.message
        case _:
            raise error
