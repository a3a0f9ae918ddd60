"""Keeping secret values out of everything that is shown (invariant 8 of the design).

The agent masks before a line leaves the machine and the server masks again before it is journalled; both
use this package. Masked is every occurrence of

- a value, without the whitespace around it;
- each line of a value of several lines that has at least 4 characters, and such a value as a whole where
  it also has shorter lines;
- its base64 (standard and URL-safe), wherever it begins inside the encoded text: of each of the three
  possible alignments the characters that do not depend on the neighbours, and all of it where it stands alone,
  also in rows as `base64`, `openssl` and PEM print it;
- its hexadecimal and percent-encoded spelling, in small letters and capitals;
- the value and its lines as JSON and shells write them (`set -x`, `printf %q`, `export -p`; spellings.py).

Of a spelling of more than 256 characters each piece of 256 is masked wherever it stands. Values shorter than
`MIN_LENGTH` characters are not masked: they would blank out ordinary text.

Each unbroken run of characters that belong to any occurrence becomes one `***`, so overlapping values leave
no remainder. Newlines are never covered: as many lines come out as went in.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import orjson

from pilothouse.wire.masking.patterns import GROUP_CHARS, Patterns, Span, merged
from pilothouse.wire.masking.spellings import MIN_LENGTH, spellings

__all__ = ["GROUP_CHARS", "MASK", "MIN_LENGTH", "Masker", "spellings"]

MASK = "***"
_STEP = 200  # spellings added in one go
_SLICE = 16 << 10  # characters searched in one go


class Masker:
    """A set of secret values, and one stream of text from which they are removed.

    `mask` is for complete texts; `feed` and `flush` are for one text that comes in pieces, and give, however
    it is cut, the same as `mask` of the whole. `sibling` opens another stream over the same values.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._secrets = _Secrets()
        for value in values:
            self._secrets.add(value)
        self._tail = ""  # not shown yet: it may be the beginning of a secret
        self._covered = 0  # how much of the tail belongs to an occurrence already found
        self._masking = False  # what was shown last is a mask that the tail may prolong
        self.found = False  # a secret was in this stream

    def add(self, value: str) -> bool:
        """Mask this value from now on. False: it is too short to be masked."""
        return self._secrets.add(value)

    def knows(self, value: str) -> bool:
        """It is masked already, or too short to be."""
        return not _maskable(value) or value.strip() in self._secrets.values

    @property
    def count(self) -> int:
        """How many values are masked."""
        return len(self._secrets.values)

    def settle(self) -> Iterator[None]:
        """Do the work that `mask` and `feed` would have to do for values added since, in steps of some 10 ms."""
        return self._secrets.settle()

    def complete(self) -> Masker:
        """The same at once; from then on threads may share it."""
        self._secrets.patterns.complete()
        return self

    @property
    def size(self) -> int:
        """Characters of everything that is looked for by now: some 20 bytes of memory each."""
        return self._secrets.size

    def sibling(self) -> Masker:
        """A stream of its own (say, stderr beside stdout) that shares the values, later ones too."""
        other = Masker()
        other._secrets = self._secrets
        return other

    def mask(self, text: str) -> str:
        """One complete text without its secrets."""
        spans = self._occurrences(text)
        return _redact(text, spans, masking=False) if spans else text

    def mask_value(self, value: Any) -> Any:
        """A JSON value of which every string, key and number has been masked."""
        steps = self.mask_steps(value)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value

    def mask_steps(self, value: Any) -> Generator[None, None, Any]:
        """The same in steps of a few milliseconds at most."""
        if isinstance(value, (dict, list)):
            clean = yield from self._clean(value)
            if clean:
                return value
        return (yield from self._masked(value))

    def _clean(self, value: Any) -> Generator[None, None, bool]:
        """Whether no secret is in all of it, written as JSON: much faster than looking at each part."""
        try:
            written = orjson.dumps(value).decode()
        except (TypeError, ValueError):
            return False
        if "\\" in written:  # without escapes, lest one stands in the midst of a secret
            written = written.encode("latin-1", "backslashreplace").decode("unicode_escape")
        stream = self.sibling()
        for start in range(0, len(written), _SLICE):
            piece = written[start : start + _SLICE]
            stream.feed(piece)
            if stream.found:
                return False
            yield
        stream.flush()
        return not stream.found

    def _masked(self, value: Any) -> Generator[None, None, Any]:
        yield
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            items = {}
            for key, item in value.items():
                items[self.mask(str(key))] = yield from self._masked(item)
            return items
        if isinstance(value, list):
            found: list[Any] = []
            for item in value:
                found += [(yield from self._masked(item))]
            return found
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            shown = self.mask(str(value))
            return value if shown == str(value) else shown
        return value

    def feed(self, text: str) -> str:
        """Take the next piece; return what may be shown by now."""
        if not self._secrets or not text:
            return text
        text = self._tail + text
        spans = self._occurrences(text, self._covered)
        self.found = self.found or bool(spans)
        cut = self._secrets.patterns.unfinished(text)
        if not spans and cut == len(text):
            self._tail, self._masking = "", False
            return text
        return self._show(text, spans, cut)

    def flush(self) -> str:
        """The text has ended: return what was held back. The stream starts anew."""
        spans = self._occurrences(self._tail, self._covered)
        self.found = self.found or bool(spans)
        shown = self._show(self._tail, spans, len(self._tail))
        self._masking = False
        return shown

    def begins(self, text: str) -> bool:
        """The end of this text may be the beginning of a secret."""
        return self._secrets.patterns.unfinished(text) < len(text)

    def _occurrences(self, text: str, covered: int = 0) -> list[Span]:
        """Where the text must not be shown. The first `covered` characters belong to an earlier occurrence."""
        if not self._secrets:
            return []
        spans = self._secrets.patterns.spans(text)
        return merged([(0, covered), *spans]) if covered else spans

    def _show(self, text: str, spans: list[Span], cut: int) -> str:
        shown = _redact(text[:cut], _clip(spans, cut), self._masking)
        if cut:
            self._masking = text[cut - 1] != "\n" and any(start < cut <= end for start, end in spans)
            # What begins behind the cut is found again; of what began before it only this is left.
            self._covered = max((end - cut for start, end in spans if start < cut < end), default=0)
        self._tail = text[cut:]
        return shown


class _Secrets:
    """The values, and every spelling of them that is looked for; spelled out when they are first needed."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self._new: dict[str, None] = {}  # not spelled out yet
        self._patterns = Patterns()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def patterns(self) -> Patterns:
        """Complete. Threads that share a masker to which nothing is added any more may ask for it at once."""
        if self._new:
            with self._lock:
                for _ in self._spell():
                    pass
        return self._patterns

    @property
    def size(self) -> int:
        return self._patterns.chars

    def add(self, value: str) -> bool:
        if not _maskable(value):
            return False
        if value.strip() not in self.values:
            self.values.add(value.strip())
            self._new[value] = None
        return True

    def settle(self) -> Iterator[None]:
        yield from self._spell()
        yield from self._patterns.settle()

    def _spell(self) -> Iterator[None]:
        # Several may be at it, in turns or one of them paused: what they do twice has no effect, and a value is
        # new until one of them is through with it.
        while self._new:
            value = next(reversed(self._new))
            forms = sorted(spellings(value))
            yield
            for start in range(0, len(forms), _STEP):
                self._patterns.add(forms[start : start + _STEP])
                yield
            self._new.pop(value, None)


def _maskable(value: str) -> bool:
    return len(value.strip()) >= MIN_LENGTH


def _clip(spans: list[Span], cut: int) -> list[Span]:
    return [(start, min(end, cut)) for start, end in spans if start < cut]


def _redact(text: str, spans: list[Span], masking: bool) -> str:
    """The text with every span replaced. `masking`: a span at the start prolongs a mask already shown."""
    pieces: list[str] = []
    shown = 0
    for start, end in spans:
        pieces.append(text[shown:start])
        lines = [MASK if line else "" for line in text[start:end].split("\n")]
        if masking and start == 0:
            lines[0] = ""
        pieces.append("\n".join(lines))
        shown = end
    pieces.append(text[shown:])
    return "".join(pieces)
