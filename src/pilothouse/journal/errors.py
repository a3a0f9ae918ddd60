"""Cursor errors (decisions.md: 410 ``CURSOR_EXPIRED``, 400 for invalid text)."""

from __future__ import annotations


class CursorError(Exception):
    """Base class of cursor errors."""

    code = "CURSOR_ERROR"


class CursorInvalid(CursorError):
    """The text is not a valid cursor of this journal."""

    code = "CURSOR_INVALID"


class CursorExpired(CursorError):
    """The cursor is of another epoch or older than the retained entries: the reader must start again."""

    code = "CURSOR_EXPIRED"
