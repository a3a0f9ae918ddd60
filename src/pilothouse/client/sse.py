"""Server-Sent Events without I/O: bytes in, messages out (the WHATWG event stream format)."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from pilothouse.client.errors import ClientError

MAX_MESSAGE = 32 << 20
"""Maximum characters of a message; far above any message of a Pilothouse server."""


class MessageTooLarge(ClientError):
    """A message exceeds the limit, so the data is probably not an event stream."""

    code = "SSE_MESSAGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class SseMessage:
    """One message. ``id`` is the last id of the stream so far, ``""`` before the first."""

    id: str
    event: str
    data: str


class SseDecoder:
    """Decodes chunks that are split anywhere; lines can end with CRLF, LF or CR.

    An id only applies once its message is complete: a reader that is interrupted within a message must get it
    again.
    """

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._max = max_message
        self._begun = False
        self._skip_newline = False  # the last chunk ended with CR: a following newline belongs to it
        self._partial: list[str] = []  # parts of the incomplete line
        self._size = 0  # characters since the last message (the tail of a chunk may be uncounted)
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self.last_id = ""
        self.retry: int | None = None
        """Milliseconds to wait before a reconnect, if the server has set it."""

    def feed(self, chunk: bytes) -> list[SseMessage]:
        """Decode a chunk; returns the completed messages."""
        text = self._utf8.decode(chunk)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if text and self._skip_newline:
            self._skip_newline = False
            text = text.removeprefix("\n")
        self._skip_newline = text.endswith("\r") or (self._skip_newline and not text)
        self._size += len(text)
        messages = self._lines(text)
        if self._size > self._max:
            raise MessageTooLarge(f"a message of over {self._max} characters")
        return messages

    def _lines(self, text: str) -> list[SseMessage]:
        messages = []
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            if self._partial:
                line = "".join((*self._partial, line))
                self._partial.clear()
            if line:
                self._field(line)
            elif message := self._dispatch():
                messages.append(message)
        if rest:
            self._partial.append(rest)
        return messages

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value[:9])

    def _dispatch(self) -> SseMessage | None:
        self.last_id, event, data = self._id, self._event, self._data
        self._event, self._data, self._size = "", [], 0
        if not data:
            return None
        return SseMessage(self.last_id, event or "message", "\n".join(data))
