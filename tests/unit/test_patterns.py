"""Many texts looked for at once: the same as looking for each, however they come, and in bounded time."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.wire.masking import Masker, patterns
from pilothouse.wire.masking.patterns import MAX_DEPTH, MAX_PATTERN, Patterns, Span, merged

texts = st.text(alphabet="ab\nü", max_size=80)
few = st.lists(st.text(alphabet="ab\nü", min_size=4, max_size=12), max_size=4)


def one_by_one(wanted: list[str], text: str) -> list[Span]:
    starts = range(len(text))
    return merged([(at, at + len(one)) for one in wanted for at in starts if text.startswith(one, at)])


def beginning(wanted: list[str], text: str) -> int:
    for at in range(len(text)):
        if any(len(one) > len(text) - at and one.startswith(text[at:]) for one in wanted):
            return at
    return len(text)


@given(wanted=few, text=texts, built=st.integers(0, 4))
def test_it_finds_what_is_there(wanted: list[str], text: str, built: int) -> None:
    """Some of them in an automaton, the others not yet."""
    found = Patterns()
    found.add(wanted[:built])
    found.complete()
    found.add(wanted[built:])
    assert found.spans(text) == one_by_one(wanted, text)
    assert found.unfinished(text) == beginning(wanted, text)


@given(wanted=few, text=texts, window=st.integers(1, 9))
def test_windows_hide_nothing(wanted: list[str], text: str, window: int) -> None:
    found = Patterns()
    found.add(wanted)
    found.complete()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(patterns, "WINDOW", window)
        assert found.spans(text) == one_by_one(wanted, text)


@given(
    long=st.text(alphabet="abcdefgh ", min_size=MAX_PATTERN - 3, max_size=4 * MAX_PATTERN).filter(
        lambda text: text.strip() == text
    ),
    cut=st.integers(0, 2000),
)
def test_long_texts_are_found_whole_and_in_pieces(long: str, cut: int) -> None:
    found = Patterns()
    found.add([long])
    text = f"<{long}>"
    assert found.spans(text) == [(1, len(text) - 1)]
    assert found.spans(f"-{long[:MAX_PATTERN]}-") == [(1, 1 + min(len(long), MAX_PATTERN))]
    shown, held = text[:cut], Masker([long])
    assert found.unfinished(shown) >= len(shown) - MAX_PATTERN, "little is held back"
    assert held.feed(shown) + held.feed(text[cut:]) + held.flush() == "<***>"


@pytest.mark.parametrize("longest_first", [False, True])
@pytest.mark.parametrize("end", ["", "b"])
def test_texts_that_end_with_each_other_cost_no_more_than_others(longest_first: bool, end: str) -> None:
    """Of 2000 nested values all would be found at every character."""
    lengths = range(4, 2004)
    found = Patterns()
    found.add(["a" * length + end for length in (reversed(lengths) if longest_first else lengths)])
    found.complete()
    text = ("a" * 3000 + end) * 3
    hits = [len(group._automaton.find_matches_as_indexes(text, overlapping=True)) for group in found._groups]
    assert sum(hits) <= (MAX_DEPTH + MAX_PATTERN.bit_length()) * len(text)
    assert found.spans(text) == [(0, len(text))]


def test_what_is_added_later_does_not_build_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    built = 0
    real = patterns.AhoCorasick

    def counted(texts: list[str], **options: object) -> object:
        nonlocal built
        built += sum(map(len, texts))
        return real(texts, **options)

    monkeypatch.setattr(patterns, "AhoCorasick", counted)
    chance = random.Random(1)
    found = Patterns()
    values = ["".join(chance.choices("abcdefghijklmnop", k=40)) for _ in range(1000)]
    line = "some line of a build\n" * 50
    for value in values:
        found.add([value])
        assert found.spans(line) == []
    assert found.spans(values[0] + " " + values[-1]) == [(0, 40), (41, 81)]
    assert built < 12 * sum(map(len, values)), "each value went into a dozen automata at most"


def test_half_a_surrogate_pair_is_a_character_like_others() -> None:
    masker = Masker(["ab\ud800cd"])
    assert masker.mask("x ab\ud800cd y \udfff") == "x *** y \udfff"
    assert masker.complete().mask("x ab\ud800cd y \udfff") == "x *** y \udfff"


def test_all_its_spellings_are_found_before_and_after_building() -> None:
    chance = random.Random(2)
    values = ["".join(chance.choices("abcdefgh/+'\" \\\n", k=30)) for _ in range(40)]
    ready, new = Masker(values).complete(), Masker(values)
    for value, other in itertools.pairwise(values):
        text = f"{value} {other!r} {other.encode().hex()} {value[1:]}{other[:-1]}"
        assert ready.mask(text) == new.mask(text)
