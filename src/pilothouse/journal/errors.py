"""What can be wrong with a cursor (decisions.md: 410 ``CURSOR_EXPIRED``, 400 for garbage)."""

from __future__ import annotations


class CursorError(Exception):
    """Base of the cursor errors."""

    code = "CURSOR_ERROR"


class CursorInvalid(CursorError):
    """Not a cursor we ever gave out."""

    code = "CURSOR_INVALID"


class CursorExpired(CursorError):
    """Of another epoch, or older than what is retained: the reader must start anew."""

    code = "CURSOR_EXPIRED"
