"""Keeping secret values out of everything that is shown (invariant 8 of the design).

The agent masks before a line leaves the machine and the server masks again before it is journalled; both
use this module. Masked is every occurrence of

- a value, without the whitespace around it;
- each line of a value of several lines that has at least 4 characters, and such a value as a whole where
  it also has shorter lines;
- its base64 (standard and URL-safe), wherever it begins inside the encoded text: of each of the three
  possible alignments the characters that do not depend on the neighbours, and all of it where it stands alone;
- its JSON-escaped and percent-encoded spelling.

Values shorter than `MIN_LENGTH` characters are not masked: they would blank out ordinary text.

Each unbroken run of characters that belong to any occurrence becomes one `***`, so overlapping values leave
no remainder. Newlines are never covered: as many lines come out as went in.
"""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

MASK = "***"
MIN_LENGTH = 4

Span = tuple[int, int]


class Masker:
    """A set of secret values, and one stream of text from which they are removed.

    `mask` is for complete texts; `feed` and `flush` are for one text that comes in pieces, and give, however
    it is cut, the same as `mask` of the whole. `sibling` opens another stream over the same values.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms = _Forms()
        self._forms.add(values)
        self._tail = ""  # not shown yet: it may be the beginning of a secret
        self._covered = 0  # how much of the tail belongs to an occurrence already found
        self._masking = False  # what was shown last is a mask that the tail may prolong

    def add(self, value: str) -> bool:
        """Mask this value from now on. False: it is too short to be masked."""
        return self._forms.add((value,))

    def sibling(self) -> Masker:
        """A stream of its own (say, stderr beside stdout) that shares the values, later ones too."""
        other = Masker()
        other._forms = self._forms
        return other

    def mask(self, text: str) -> str:
        """One complete text without its secrets."""
        spans = _occurrences(text, self._forms.all)
        return _redact(text, spans, masking=False) if spans else text

    def mask_value(self, value: Any) -> Any:
        """A JSON value of which every string, key and number has been masked."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {self.mask(str(key)): self.mask_value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mask_value(item) for item in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            shown = self.mask(str(value))
            return value if shown == str(value) else shown
        return value

    def feed(self, text: str) -> str:
        """Take the next piece; return what may be shown by now."""
        if not self._forms.all:
            return text
        text = self._tail + text
        spans = _occurrences(text, self._forms.all, self._covered)
        cut = self._forms.unfinished(text)
        if not spans and cut == len(text):
            self._tail, self._masking = "", False
            return text
        return self._show(text, spans, cut)

    def flush(self) -> str:
        """The text has ended: return what was held back. The stream starts anew."""
        spans = _occurrences(self._tail, self._forms.all, self._covered)
        shown = self._show(self._tail, spans, len(self._tail))
        self._masking = False
        return shown

    def _show(self, text: str, spans: list[Span], cut: int) -> str:
        shown = _redact(text[:cut], _clip(spans, cut), self._masking)
        if cut:
            self._masking = text[cut - 1] != "\n" and any(start < cut <= end for start, end in spans)
            # What begins behind the cut is found again; of what began before it only this is left.
            self._covered = max((end - cut for start, end in spans if start < cut < end), default=0)
        self._tail = text[cut:]
        return shown


class _Forms:
    """Every spelling of the values that is looked for.

    A plain substring search for each is faster than one regular expression for all: 3 to 6 times on a 64 KiB
    chunk with 4 to 120 spellings, and no slower on a single line.
    """

    def __init__(self) -> None:
        self.all: tuple[str, ...] = ()
        self._any = _Prefixes(())
        self._with_newline = _Prefixes(())

    def add(self, values: Iterable[str]) -> bool:
        found = {form for value in values for form in spellings(value)}
        self.all = tuple(sorted(found.union(self.all)))
        self._any = _Prefixes(self.all)
        self._with_newline = _Prefixes(tuple(form for form in self.all if "\n" in form))
        return bool(found)

    def unfinished(self, text: str) -> int:
        """Where the longest end of the text that may begin a secret starts; the end if there is none."""
        # A complete line is only held back for a secret that goes on in the next one.
        prefixes = self._with_newline if text.endswith("\n") else self._any
        return prefixes.unfinished(text)


class _Prefixes:
    def __init__(self, forms: tuple[str, ...]) -> None:
        self._longest = max(map(len, forms), default=1)
        self._by_first: dict[str, list[str]] = {}
        for form in forms:
            self._by_first.setdefault(form[0], []).append(form)

    def unfinished(self, text: str) -> int:
        size = len(text)
        if not self._by_first:
            return size
        for at in range(max(0, size - self._longest + 1), size):
            for form in self._by_first.get(text[at], ()):
                if len(form) > size - at and form.startswith(text[at:]):
                    return at
        return size


def spellings(value: str) -> set[str]:
    """All texts that give the value away; none for a value too short to be masked."""
    whole = value.strip()
    if len(whole) < MIN_LENGTH:
        return set()
    found: set[str] = set()
    # Output is cleaned of carriage returns before newlines, so a value with them is looked for without, too.
    for text in {whole, whole.replace("\r\n", "\n")}:
        lines = [line.strip() for line in text.split("\n")]
        found.update(line for line in lines if len(line) >= MIN_LENGTH)
        if any(0 < len(line) < MIN_LENGTH for line in lines):
            found.add(text)
        found.update((json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]))
        encoded = text.encode("utf-8", "surrogatepass")
        found.add(quote(encoded, safe=""))
        found.update(_base64_cores(encoded))
        found.update(encode(encoded).decode("ascii") for encode in (b64encode, urlsafe_b64encode))
    return found


def _base64_cores(data: bytes) -> Iterable[str]:
    for before in range(3):
        # 6 bits make one character: left out are those that share bits with what stands around the value.
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(before) + data)[first:last].decode("ascii")


def _occurrences(text: str, forms: tuple[str, ...], covered: int = 0) -> list[Span]:
    """Where the text must not be shown: sorted spans that do not touch. The first `covered` belong to one."""
    spans = [(0, covered)] if covered else []
    for form in forms:
        at = text.find(form)
        while at >= 0:
            spans.append((at, at + len(form)))
            at = text.find(form, at + 1)
    if len(spans) < 2:
        return spans
    spans.sort()
    merged = [spans[0]]
    for start, end in spans[1:]:
        last_start, last_end = merged[-1]
        if start <= last_end:
            merged[-1] = (last_start, max(end, last_end))
        else:
            merged.append((start, end))
    return merged


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
