"""Search for many texts at once; texts can be added at any time.

Texts are kept in groups, each with an Aho–Corasick automaton. New texts are first searched one by one; when
that has cost as much as building an automaton, they become a group, merged with all groups that are not
larger. So a text is built into an automaton a logarithmic number of times, and no single build takes more
than about 10 ms.

Two bounds keep the work linear for any texts; both only ever find more than requested:

- a text longer than `MAX_PATTERN` is replaced by its parts of that length;
- of more than `MAX_DEPTH` texts that are suffixes of one another (`aaaa`, `aaaaa`, …), each further one is
  replaced by its prefix and its suffix whose length is the largest power of two in its length: only one of
  each length can end at a position.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from ahocorasick_rs import AhoCorasick, Implementation

MAX_PATTERN = 256  # characters
MAX_DEPTH = 4
GROUP_CHARS = 64 << 10  # of one automaton, which takes about 10 ms to build
WINDOW = 16 << 10  # characters searched in one slice
GUARDED = 1 << 10  # the same, where occurrences are counted: a slice has at most some ten per character

# Approximate nanoseconds to search for one text, per 8 characters, and to build one character into an
# automaton.
_FIND, _FIND_8, _BUILD = 100, 1, 150
_EDGE = 4  # characters; no text is shorter
_DENSE = 10_000  # occurrences above which searching texts one by one is too slow
_SURROGATE = re.compile("[\ud800-\udfff]")

Span = tuple[int, int]


class TooDense(Exception):
    """A text has more occurrences than the caller wants to pay for; none of it was masked."""


class Allowance:
    """How many occurrences may be found; each takes some 0.2 µs, and hostile texts have ten per character."""

    def __init__(self, occurrences: int) -> None:
        self._left = occurrences

    def spend(self, occurrences: int) -> None:
        """Raises TooDense."""
        self._left -= occurrences
        if self._left < 0:
            raise TooDense


class Patterns:
    """A growing set of texts of at least 4 characters."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._groups: list[_Group] = []
        self._pending: list[str] = []  # in no group yet
        self._pending_chars = 0
        self.chars = 0
        self._spent = 0  # nanoseconds spent on searching these one by one
        self._lock = threading.Lock()  # held while automata are built and texts are searched one by one
        self._beginnings = _Beginnings()
        self._ends: dict[str, _Ends] = {}  # texts that are searched whole, by their last characters
        self._halves: set[str] = set()

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            for piece in _pieces(_SURROGATE.sub("\ufffd", text)):
                if piece not in self._known:
                    self._known.add(piece)
                    for part in self._bounded(piece):
                        self._look_for(part)

    def _look_for(self, text: str) -> None:
        self._pending.append(text)
        self._pending_chars += len(text)
        self.chars += len(text)
        self._beginnings.add(text)

    def _bounded(self, text: str) -> Iterable[str]:
        """The text, or the parts that replace it (see the bounds above)."""
        ends = self._ends.setdefault(text[-_EDGE:], _Ends())
        if ends.depth(text) < MAX_DEPTH:
            ends.add(text)
            return (text,)
        half = 1 << (len(text).bit_length() - 1)
        halves = {text[:half], text[-half:]} - self._halves
        self._halves |= halves
        return halves

    def settle(self) -> Iterator[None]:
        """Build the automata that are needed before searching much text; yields about every 10 ms."""
        while self._pending_chars > GROUP_CHARS // 4:
            with self._lock:
                self._build()
            yield

    def complete(self) -> None:
        """Build all automata."""
        while self._pending:
            with self._lock:
                self._build()

    def spans(self, text: str, allowance: Allowance | None = None) -> list[Span]:
        """The spans of all occurrences: sorted, disjoint and not adjacent. Raises TooDense."""
        if not self._known:
            return []
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)
        found: list[Span] = []
        with self._lock:
            if self._pending:
                self._spent += len(self._pending) * (_FIND + len(text) * _FIND_8 // 8)
                if self._spent > self._pending_chars * _BUILD or not self._find(text, found):
                    found.clear()
                    self._build_all()
            groups = tuple(self._groups)
        for group in groups:
            found += group.spans(text, allowance)
        return merged(found)

    def unfinished(self, text: str) -> int:
        """The start of the longest suffix that is a prefix of one of the texts; the text's end if there is
        none."""
        return self._beginnings.unfinished(text)

    def _find(self, text: str, found: list[Span]) -> bool:
        """Search one by one. False if there are too many occurrences for this method."""
        for pattern in self._pending:
            at = text.find(pattern)
            while at >= 0:
                found.append((at, at + len(pattern)))
                if len(found) > _DENSE:
                    return False
                at = text.find(pattern, at + 1)
        return True

    def _build_all(self) -> None:
        while self._pending:
            self._build()

    def _build(self) -> None:
        """Build one more automaton, of texts that are in none and of groups that are not larger."""
        size, count = 0, 0
        while count < len(self._pending) and size < GROUP_CHARS:
            size += len(self._pending[-1 - count])
            count += 1
        texts = self._pending[len(self._pending) - count :]
        del self._pending[len(self._pending) - count :]
        self._pending_chars -= size
        self._spent = 0
        while self._groups and self._groups[-1].chars <= min(size, GROUP_CHARS - size):
            group = self._groups.pop()
            texts += group.texts
            size += group.chars
        self._groups.append(_Group(texts, size))


class _Group:
    def __init__(self, texts: list[str], chars: int) -> None:
        self.texts = texts
        self.chars = chars
        self._automaton = AhoCorasick(
            texts, implementation=Implementation.ContiguousNFA, store_patterns=False
        )

    def spans(self, text: str, allowance: Allowance | None) -> list[Span]:
        window = WINDOW if allowance is None else GUARDED
        if len(text) <= window:
            return self._window(text, 0, allowance)
        found: list[Span] = []
        for start in range(0, len(text), window):
            before = max(0, start - MAX_PATTERN + 1)
            found += self._window(text[before : start + window], before, allowance)
        return found

    def _window(self, text: str, offset: int, allowance: Allowance | None) -> list[Span]:
        """Occurrences in order of their ends, merged where they overlap or touch."""
        found: list[Span] = []
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        if allowance is not None:
            allowance.spend(len(matches))
        for _, start, end in matches:
            while found and found[-1][1] >= start:
                start = min(start, found.pop()[0])
            found.append((start, end))
        return [(start + offset, end + offset) for start, end in found] if offset else found


class _Ends:
    """Texts with the same last characters."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._lengths: set[int] = set()
        self._mirrored: list[str] = []  # sorted: those that end with a text follow it

    def add(self, text: str) -> None:
        self._texts.add(text)
        self._lengths.add(len(text))
        insort(self._mirrored, text[::-1])

    def depth(self, text: str) -> int:
        """Number of texts that are suffixes of this text or vice versa, at most `MAX_DEPTH`."""
        mirrored, count = text[::-1], 0
        after = bisect_left(self._mirrored, mirrored)
        for other in self._mirrored[after : after + MAX_DEPTH]:
            count += other.startswith(mirrored)
        for length in self._lengths:
            if count >= MAX_DEPTH:
                break
            count += length < len(text) and text[-length:] in self._texts
        return count


class _Beginnings:
    """The texts by their first characters, in sorted lists."""

    def __init__(self) -> None:
        self._short: set[str] = set()
        self._by_prefix: dict[str, list[str]] = {}
        self._longest = 0

    def add(self, text: str) -> None:
        self._short.update((text[:1], text[:2], text[:3]))
        insort(self._by_prefix.setdefault(text[:_EDGE], []), text)
        self._longest = max(self._longest, len(text))

    def unfinished(self, text: str) -> int:
        size = len(text)
        text = _SURROGATE.sub("\ufffd", text[-self._longest :]) if self._longest else ""
        skipped = size - len(text)
        for at in range(len(text)):
            if text[at] in self._short and self._begins(text[at:]):
                return skipped + at
        return size

    def _begins(self, tail: str) -> bool:
        if len(tail) < _EDGE:
            return tail in self._short
        texts = self._by_prefix.get(tail[:_EDGE])
        if texts is None:
            return False
        # In sorted order, texts with the prefix `tail` follow it.
        after = bisect_right(texts, tail)
        return after < len(texts) and texts[after].startswith(tail)


def merged(spans: list[Span]) -> list[Span]:
    """Sort spans, and merge those that overlap or touch."""
    if len(spans) < 2:
        return spans
    spans.sort()
    joined = [spans[0]]
    for start, end in spans[1:]:
        last_start, last_end = joined[-1]
        if start <= last_end:
            if end > last_end:
                joined[-1] = (last_start, end)
        else:
            joined.append((start, end))
    return joined


def _pieces(text: str) -> Iterator[str]:
    if len(text) <= MAX_PATTERN:
        yield text
        return
    for start in range(0, len(text), MAX_PATTERN):
        piece = text[min(start, len(text) - MAX_PATTERN) :][:MAX_PATTERN]
        if not piece.isspace():
            yield piece
