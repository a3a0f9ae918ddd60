"""Encodes the JSON messages of a run's streams for WebSocket and SSE, and the lines of a log chunk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pilothouse.journal import Cursor, Entry, Frame

Message = dict[str, Any]


class Framing:
    """Encodes messages for one transport; the same for every format."""

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch

    def frame(self, message: bytes, event: str, cursor: str) -> bytes:
        """A JSON object as text of a WebSocket message (``ws``, with its cursor in ``ws+cursor``) or an SSE event."""
        if self.name == "ws":
            return message
        if self.name == "ws+cursor":
            return b'%b,"cursor":"%b"}' % (message[:-1], cursor.encode())
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor.encode(), event.encode(), message)

    def frames(self, entry: Entry, messages: list[tuple[str, bytes]], *, lines: bool) -> tuple[Frame, ...]:
        """Frame an entry's messages (event name, JSON). Where they are its ``lines``, each counts as one part."""
        first = entry.base + 1 if lines else 1
        if self.name == "ws":  # the message alone: no cursor is made for each line
            return tuple(Frame(message, k) for k, (_, message) in enumerate(messages, start=first))
        last = len(messages)
        after = Cursor(entry.offset + 1).text(self.epoch)
        framed = []
        for number, (event, message) in enumerate(messages, start=1):
            k = first + number - 1
            cursor = after if number == last else Cursor(entry.offset, k).text(self.epoch)
            framed.append(Frame(self.frame(message, event, cursor), k))
        return tuple(framed)


def lines_of(body: Message) -> Iterator[tuple[str, str, str]]:
    """The lines of a chunk, each with its level and stream."""
    stderr = frozenset(body.get("stderr", ()))
    levels = body.get("levels", {})
    if not stderr and not levels:
        for line in body["lines"]:
            yield line, "info", "stdout"
        return
    for index, line in enumerate(body["lines"]):
        yield line, levels.get(str(index), "info"), "stderr" if index in stderr else "stdout"
