"""Many texts looked for at once: the same as looking for each, however they come, and in bounded time."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

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
    ends = Counter(
        match[2]
        for group in found._groups
        for match in group._automaton.find_matches_as_indexes(text, overlapping=True)
    )
    assert max(ends.values()) <= MAX_DEPTH + MAX_PATTERN.bit_length(), "so many end at one position"
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


def test_of_nested_texts_four_are_looked_for_as_they_are() -> None:
    """A fifth is replaced by its first and last characters, of which there are a power of two."""
    found = Patterns()
    found.add(["wxyz", "1wxyz", "21wxyz", "321wxyz"])
    assert [found.spans(part) for part in ("321w", "321wxy", "21wx")] == [[], [], []]
    found.add(["54321wxyz"])
    assert found.spans("54321wxy") == [(0, 8)]
    assert found.spans("5432") == []
    assert found.spans("a54321wxyz") == [(1, 10)]


@pytest.mark.parametrize(
    "wanted",
    [
        ["aawxyz", "bbbwxyz", "ccccwxyz", "dddddwxyz", "eeeeeewxyz"],
        ["axxxx", "bxxxx", "cxxxx", "dxxxx", "exxxx", "yxxxxx"],
        ["axxxx", "bxxxx", "cxxxx", "dxxxx", "xxxxx"],
    ],
)
def test_texts_that_only_end_alike_are_looked_for_as_they_are(wanted: list[str]) -> None:
    found = Patterns()
    found.add(wanted)
    for text in wanted:
        assert found.spans(f" {text} ") == [(1, 1 + len(text))]
        assert found.spans(text[:-1]) == found.spans(text[1:]) == []


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The characters of each automaton, as they are built."""
    sizes: list[int] = []
    real = patterns.AhoCorasick

    def recorded(texts: list[str], **options: Any) -> Any:
        sizes.append(sum(map(len, texts)))
        return real(texts, **options)

    monkeypatch.setattr(patterns, "AhoCorasick", recorded)
    return sizes


def test_groups_are_merged_with_those_that_are_not_larger(
    built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "GROUP_CHARS", 100)
    found = Patterns()
    added: list[str] = []
    for count, expected in (
        (25, [100, 100, 50]),
        (3, [30]),
        (2, [20]),
        (2, [70]),  # with those of 20 and 30
        (1, [10]),
        (3, [40]),
        (6, [100]),  # with that of 40
    ):
        more = [f"text-{len(added) + number:05}" for number in range(count)]
        added += more
        found.add(more)
        built.clear()
        found.complete()
        assert built == expected
    assert all(found.spans(f" {text} ") == [(1, 11)] for text in added)


def test_settling_builds_when_much_is_new(built: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "GROUP_CHARS", 200)
    found = Patterns()
    found.add(f"text-{number:05}" for number in range(5))
    assert (list(found.settle()), built) == ([], []), "a quarter of a group may wait"
    found.add(["abcd"])
    assert (list(found.settle()), built) == ([None], [54])
    found.add(f"text-{number:05}" for number in range(5, 10))
    assert (list(found.settle()), built) == ([], [54])
    found.add(f"text-{number:05}" for number in range(10, 30))
    assert (list(found.settle()), built) == ([None], [54, 200]), (
        "what is left, a quarter of a group, may wait"
    )


def test_new_texts_are_looked_for_one_by_one_until_that_has_cost_as_much_as_building(
    built: list[int],
) -> None:
    found = Patterns()
    found.add(["a" * 20, "b" * 20])
    text = " " * 1580 + "a" * 20  # 300 ns for each text, of the 6000 ns that it takes to build
    assert [found.spans(text) for _ in range(10)] == [[(1580, 1600)]] * 10
    assert built == []
    found.spans(text)
    assert built == [40]
    found.add(["c" * 30])
    for _ in range(15):
        found.spans(text)
    assert built == [40]
    found.spans(text)
    assert built == [40, 30]


def test_very_many_occurrences_are_not_looked_for_one_by_one(built: list[int]) -> None:
    found = Patterns()
    found.add(["aaaa", "b" * 100])
    assert found.spans("a" * 10_003) == [(0, 10_003)]
    assert built == []
    assert found.spans("a" * 10_004) == [(0, 10_004)]
    assert built == [104]


def test_occurrences_that_overlap_by_one_character() -> None:
    found = Patterns()
    found.add(["aaaa", "abba"])
    assert found.spans("aaaaa") == [(0, 5)]
    assert found.spans("abbabba") == [(0, 7)]


def test_a_text_as_long_as_any_is_found_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "".join(random.Random(3).choices("abcdefgh", k=MAX_PATTERN))
    found = Patterns()
    found.add([long, "wxyz"])
    found.complete()
    monkeypatch.setattr(patterns, "WINDOW", 300)
    for at in (*range(40, 48), 299, 300, 301):
        assert found.spans("-" * at + long + "-" * 700 + "wxyz") == [
            (at, at + MAX_PATTERN),
            (at + MAX_PATTERN + 700, at + MAX_PATTERN + 704),
        ]


def test_what_is_added_again_is_not_looked_for_twice() -> None:
    found = Patterns()
    found.add(["abcd", "abcd"])
    found.add(["abcd"])
    assert found.chars == 4


def test_a_long_text_is_looked_for_in_as_few_parts_as_possible() -> None:
    long = "".join(random.Random(4).choices("abcdefgh", k=600))
    found = Patterns()
    found.add([long])
    assert found.chars == 3 * MAX_PATTERN
    assert found.spans(long[:MAX_PATTERN]) == found.spans(long[-MAX_PATTERN:]) == [(0, MAX_PATTERN)]
    assert found.spans(long[-88:]) == [], "a part of it that is shorter may be ordinary text"
