"""Converts the bytes that a step writes to lines of text, in any chunks.

Invalid UTF-8 and NUL become U+FFFD; `\\r\\n` ends a line like `\\n`; escape sequences are kept; a line over the limit
is cut with a notice. Of a line that is overwritten (`\\r` followed by text, as in progress bars) only the last state
is kept.

An incomplete line is kept until it or the stream ends, but can be shown earlier as a separate line. The rest is then
the next line: no text is shown twice.
"""

from __future__ import annotations

import codecs
import re

MAX_LINE_BYTES = 16 * 1024
MAX_INVISIBLE = 4096  # characters of escape sequences behind a carriage return

_ERASE_LINE = "\x1b[2K"
_ERASE_REST = ("\x1b[K", "\x1b[0K")
# These, and what moves the cursor to the beginning of the line.
_MOVES = re.compile("(\r|\x1b\\[(?:[01]?G|[02]?K))")
_INVISIBLE = re.compile("(?:\x1b\\[[0-?]*[ -/]*[@-~])*")
_UNFINISHED_SEQUENCE = re.compile("\x1b(?:\\[[0-?]{0,30})?\\Z")


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
        self._held = ""  # an escape sequence that has not ended
        self._begin_line()

    def _begin_line(self) -> None:
        self._partial = ""  # what is not shown yet of the unfinished line, since it was last rewritten
        self._dropped = 0  # bytes of it that are over the limit
        self._shown: str | None = None  # what was shown last of this line
        self._whole = True  # nothing of this state of the line is shown
        self._at_start = False  # what comes next replaces what there is
        self._invisible = ""  # escape sequences since then
        self.rewritten = False

    def feed(self, text: str) -> list[str]:
        lines = (self._held + text).split("\n")
        self._held = ""
        moves = "\r" in text or "\x1b" in text or "\x1b" in lines[0]
        rest = lines.pop()
        first = self._end(lines.pop(0), moves) if lines else []
        if moves:
            rest = self._hold(rest)
            lines = [last_state(line) if _MOVES.search(line) else line for line in lines]
        self._grow(rest, moves)
        if lines:
            # If the longest line is short enough, the others need no check; a character has at most 4 bytes.
            widest = max(map(len, lines)) * (1 if text.isascii() else 4)
            if widest > self._limit:
                lines = [self._cut(line) for line in lines]
        return first + lines

    def flush(self) -> list[str]:
        """End of the stream: the part of the incomplete line that was not shown, if any."""
        self._grow(self._held, False)
        self._held = ""
        return self._end("", False) if self.unshown else []

    @property
    def unshown(self) -> bool:
        """Whether a part of the incomplete line was not shown yet."""
        if self._whole and (self._partial == self._shown or self._blank):
            return False
        return bool(self._partial or self._dropped)

    @property
    def _blank(self) -> bool:
        """Whether the line was cleared with spaces."""
        return self.rewritten and not self._partial.strip()

    def show(self) -> list[str]:
        """The part of the incomplete line that was not shown yet; it counts as shown from now on."""
        if not self.unshown:
            return []
        line = self._line()
        before = "" if self._whole else self._shown or ""
        self._shown = (before + self._partial)[: self._limit]
        self._partial, self._dropped, self._whole = "", 0, False
        return [line]

    def _end(self, text: str, moves: bool) -> list[str]:
        """The rest of the incomplete line, which ends here."""
        self._grow(text, moves)
        repeated = self._shown is not None and not self.unshown
        line = self._line()
        self._begin_line()
        return [] if repeated else [line]

    def _line(self) -> str:
        if self._dropped:
            return _notice(self._partial, self._dropped)
        if self._whole and self._blank:
            return ""
        return self._cut(self._partial + self._invisible)

    def _hold(self, text: str) -> str:
        unfinished = _UNFINISHED_SEQUENCE.search(text, max(0, len(text) - 40))
        if unfinished is None:
            return text
        self._held = text[unfinished.start() :]
        return text[: unfinished.start()]

    def _grow(self, text: str, moves: bool) -> None:
        if not moves and not self._at_start:
            self._append(text)
            return
        for index, part in enumerate(_MOVES.split(text)):
            if index % 2 == 0:
                self._write(part)
            elif part in _ERASE_REST and not self._at_start:
                self._append(part)  # there is nothing to erase
            else:
                if part in _ERASE_REST or part == _ERASE_LINE:
                    self._replace("")
                self._at_start = self.rewritten = True

    def _write(self, text: str) -> None:
        if self._at_start and text:
            text = self._invisible + text
            if len(text) <= MAX_INVISIBLE and _INVISIBLE.fullmatch(text):
                self._invisible = text
                return
            self._replace("")
        self._append(text)

    def _replace(self, text: str) -> None:
        self._partial, self._dropped, self._invisible = text, 0, ""
        self._whole, self._at_start = True, False

    def _append(self, text: str) -> None:
        if self._dropped:
            self._dropped += len(text.encode("utf-8", "replace"))
            return
        self._partial += text
        if len(self._partial) > self._limit:
            self._partial, self._dropped = self._split(self._partial)

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


def last_state(line: str) -> str:
    """The last state of a complete line that may have been overwritten."""
    assembler = LineAssembler(4 * len(line))
    return assembler._end(line, True)[0]


def _notice(kept: str, dropped: int) -> str:
    return f"{kept} … [line cut: {dropped} bytes dropped]"
