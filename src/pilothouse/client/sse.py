"""Server-Sent Events without I/O: bytes in, messages out (the WHATWG event stream format)."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from pilothouse.client.errors import ClientError

MAX_MESSAGE = 32 << 20
"""Characters of one message; far above anything a Pilothouse server sends."""


class MessageTooLarge(ClientError):
    """What comes is no event stream, or somebody means us harm."""

    code = "SSE_MESSAGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``id`` is the last id seen so far in the stream, ``""`` before the first."""

    id: str
    event: str
    data: str


class SseDecoder:
    """Feed it chunks, cut anywhere; lines may end with CRLF, LF or CR.

    An id counts only once its message is complete: a reader that is cut off within a message must get it again.
    """

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._max = max_message
        self._begun = False
        self._skip_newline = False  # the last chunk ended with CR: a newline now belongs to it
        self._partial: list[str] = []  # pieces of the line that has not ended
        self._size = 0  # characters since the last message (a chunk's tail may go uncounted)
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self.last_id = ""
        self.retry: int | None = None
        """Milliseconds a server asked its readers to wait before they come back."""

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that this chunk completes."""
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

    def _lines(self, text: str) -> list[Message]:
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

    def _dispatch(self) -> Message | None:
        self.last_id, event, data = self._id, self._event, self._data
        self._event, self._data, self._size = "", [], 0
        if not data:
            return None
        return Message(self.last_id, event or "message", "\n".join(data))
