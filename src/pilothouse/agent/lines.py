"""From the bytes a step writes to lines of text, in any chunks.

Rules: UTF-8 with replacement characters for what is not; NUL becomes U+FFFD, too; `\\r\\n` ends a line like
`\\n`; a lone `\\r` (progress bars) and escape sequences stay; a line over the limit is cut, and says so.
A line that has not ended is kept until it does or the stream ends.
"""

from __future__ import annotations

import codecs

MAX_LINE_BYTES = 16 * 1024


class TextDecoder:
    """Bytes to text; characters and `\\r\\n` may be split between two chunks."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # a carriage return, until it is known whether a newline follows

    def feed(self, data: bytes, final: bool = False) -> str:
        text = self._held + self._utf8.decode(data, final)
        self._held = ""
        if "\r" in text:
            if text.endswith("\r") and not final:
                text, self._held = text[:-1], "\r"
            text = text.replace("\r\n", "\n")
        return text.replace("\0", "\ufffd")


class LineAssembler:
    """Pieces of text to whole lines, none of more than `limit` bytes of UTF-8 (the notice of a cut aside)."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._partial = ""
        self._dropped = 0  # bytes of the unfinished line that are over the limit

    def feed(self, text: str) -> list[str]:
        lines = text.split("\n")
        if len(lines) == 1:
            self._grow(text)
            return []
        self._grow(lines[0])
        rest = lines.pop()
        lines[0] = self._take()
        self._grow(rest)
        # One look at the longest line spares looking at each; a character has at most 4 bytes.
        widest = max(map(len, lines)) * (1 if text.isascii() else 4)
        if widest > self._limit:
            lines[1:] = [self._cut(line) for line in lines[1:]]
        return lines

    def flush(self) -> list[str]:
        """The stream has ended: the unfinished line, if any."""
        return [self._take()] if self._partial or self._dropped else []

    def _grow(self, text: str) -> None:
        if self._dropped:
            self._dropped += len(text.encode("utf-8", "replace"))
            return
        self._partial += text
        if len(self._partial) > self._limit:
            self._partial, self._dropped = self._split(self._partial)

    def _take(self) -> str:
        line, dropped = self._partial, self._dropped
        self._partial, self._dropped = "", 0
        return _notice(line, dropped) if dropped else self._cut(line)

    def _cut(self, line: str) -> str:
        if len(line) * 4 <= self._limit:
            return line
        kept, dropped = self._split(line)
        return _notice(kept, dropped) if dropped else line

    def _split(self, line: str) -> tuple[str, int]:
        encoded = line.encode("utf-8", "replace")
        if len(encoded) <= self._limit:
            return line, 0
        kept = encoded[: self._limit].decode("utf-8", "ignore")
        return kept, len(encoded) - len(kept.encode())


def _notice(kept: str, dropped: int) -> str:
    return f"{kept} … [line cut: {dropped} bytes dropped]"
