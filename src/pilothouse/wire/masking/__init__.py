"""Masking of secret values in all output (invariant 8 of the design).

The agent masks before a line leaves the machine and the server masks again before it is stored; both use this
package. Every occurrence is masked of

- a value, without the whitespace around it;
- each line of a multi-line value that has at least 4 characters, and the value as a whole if it also has
  shorter lines;
- its base64 (standard and URL-safe), at any position within the encoded data: for each of the three possible
  alignments the characters that do not depend on adjacent data, and all of it if it is encoded alone, also in
  wrapped lines of `base64`, `openssl` and PEM;
- its hexadecimal and percent-encoded forms, in lower and upper case;
- the value and its lines as JSON and shells write them (`set -x`, `printf %q`, `export -p`; spellings.py).

Of a form with more than 256 characters each part of 256 characters is masked on its own. Values shorter than
`MIN_LENGTH` characters are not masked, since they would hide ordinary text.

Each contiguous range of characters of any occurrences becomes one `***`, so overlapping values leave no
remainder. Newlines are never masked, so the number of lines does not change.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import orjson

from pilothouse.wire.masking.patterns import GROUP_CHARS, Allowance, Patterns, Span, TooDense, merged
from pilothouse.wire.masking.spellings import MIN_LENGTH, spellings

__all__ = ["GROUP_CHARS", "MASK", "MIN_LENGTH", "Masker", "TooDense", "spellings"]

MASK = "***"
_STEP = 200  # spellings added in one slice
_SLICE = 16 << 10  # characters searched in one slice


class Masker:
    """A set of secret values, and one stream of text in which they are masked.

    `mask` is for complete texts. `feed` and `flush` are for a text that arrives in pieces; their result is
    the same as that of `mask`, regardless of the split. `sibling` opens another stream with the same values.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._secrets = _Secrets()
        for value in values:
            self._secrets.add(value)
        self._tail = ""  # held back: it may be the beginning of a secret
        self._covered = 0  # characters of the tail that belong to a known occurrence
        self._masking = False  # the last output was a mask that the tail may extend
        self.found = False  # a secret occurred in what was fed
        self._allowance: Allowance | None = None

    def add(self, value: str) -> bool:
        """Mask this value from now on. False if it is too short to be masked."""
        return self._secrets.add(value)

    def knows(self, value: str) -> bool:
        """Whether the value is already masked, or too short."""
        return not _maskable(value) or value.strip() in self._secrets.values

    @property
    def count(self) -> int:
        """Number of masked values."""
        return len(self._secrets.values)

    def settle(self) -> Iterator[None]:
        """Prepare recently added values for searching, which `mask` and `feed` would otherwise do; yields
        every 10 ms."""
        return self._secrets.settle()

    def complete(self) -> Masker:
        """Like `settle`, without yielding; afterwards threads can share the masker."""
        self._secrets.patterns.complete()
        return self

    @property
    def size(self) -> int:
        """Total characters of all searched forms; each uses about 20 bytes of memory."""
        return self._secrets.size

    def sibling(self) -> Masker:
        """A separate stream (for example stderr) that shares the values, including later ones."""
        other = Masker()
        other._secrets, other._allowance = self._secrets, self._allowance
        return other

    def bounded(self, occurrences: int) -> Masker:
        """A separate stream that raises `TooDense` once it has found more occurrences."""
        other = self.sibling()
        other._allowance = Allowance(occurrences)
        return other

    def mask(self, text: str) -> str:
        """Mask one complete text."""
        spans = self._occurrences(text)
        return _redact(text, spans, masking=False) if spans else text

    def mask_start(self, text: str, most: int) -> str:
        """Mask the beginning of a text: at most so many characters, without what the cut leaves of a secret."""
        return self.mask(text) if len(text) <= most else self.sibling().feed(text[:most])

    def mask_value(self, value: Any) -> Any:
        """Mask every string, key and number of a JSON value."""
        steps = self.mask_steps(value)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value

    def mask_steps(self, value: Any) -> Generator[None, None, Any]:
        """Like `mask_value`, in steps of a few milliseconds."""
        if isinstance(value, (dict, list)):
            clean = yield from self._clean(value)
            if clean:
                return value
        return (yield from self._masked(value))

    def _clean(self, value: Any) -> Generator[None, None, bool]:
        """Whether the value's JSON text contains no secret; much faster than checking each part."""
        try:
            written = orjson.dumps(value).decode()
        except (TypeError, ValueError):
            return False
        if "\\" in written:  # without escapes, since one could be inside a secret
            written = written.encode("latin-1", "backslashreplace").decode("unicode_escape")
        stream = self.sibling()
        for start in range(0, len(written), _SLICE):
            piece = written[start : start + _SLICE]
            stream.feed(piece)
            if stream.found:
                return False
            yield
        return True

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
        """Process the next piece; returns the text that can be shown by now."""
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
        """End the text: returns what was held back and resets the stream."""
        spans = self._occurrences(self._tail, self._covered)
        shown = self._show(self._tail, spans, len(self._tail))
        self._masking = False
        return shown

    def begins(self, text: str) -> bool:
        """Whether the end of this text may be the beginning of a secret."""
        return self._secrets.patterns.unfinished(text) < len(text)

    def _occurrences(self, text: str, covered: int = 0) -> list[Span]:
        """The spans of the text to mask. The first `covered` characters belong to an earlier occurrence."""
        if not self._secrets:
            return []
        spans = self._secrets.patterns.spans(text, self._allowance)
        return merged([(0, covered), *spans]) if covered else spans

    def _show(self, text: str, spans: list[Span], cut: int) -> str:
        shown = _redact(text[:cut], _clip(spans, cut), self._masking)
        if cut:
            self._masking = text[cut - 1] != "\n" and any(start < cut <= end for start, end in spans)
            # Occurrences after the cut are found again; of those that began before it only this part remains.
            self._covered = max((end - cut for start, end in spans if start < cut < end), default=0)
        self._tail = text[cut:]
        return shown


class _Secrets:
    """The values and all their searched forms, which are computed when first needed."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self._new: dict[str, None] = {}  # forms not computed yet
        self._patterns = Patterns()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def patterns(self) -> Patterns:
        """All forms. Threads can call this concurrently if no values are added any more."""
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
        # Several generators can run interleaved: repeated work has no effect, and a value stays new until one
        # of them has finished it.
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
    """The text with every span replaced. `masking`: a span at the start extends a mask already shown."""
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
