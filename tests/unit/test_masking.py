"""Masking: no secret comes through, however the text is cut; what is no secret comes through untouched."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.wire.masking import MASK, MIN_LENGTH, Masker, TooDense, spellings

# Few letters, so that secrets overlap, repeat and begin everywhere.
crowded = st.text(alphabet="abc\n ", min_size=0, max_size=60)
crowded_secret = st.text(alphabet="abc\n", min_size=1, max_size=9)
wordy_secret = st.text(st.characters(codec="utf-8", exclude_characters="*\0"), min_size=1, max_size=24)


def in_pieces(masker: Masker, text: str, cuts: list[int]) -> str:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = [masker.feed(text[a:b]) for a, b in pairwise(edges)]
    return "".join(shown) + masker.flush()


@given(
    text=crowded, secrets=st.lists(crowded_secret, max_size=4), cuts=st.lists(st.integers(0, 60), max_size=12)
)
def test_pieces_give_the_same_as_the_whole(text: str, secrets: list[str], cuts: list[int]) -> None:
    masker = Masker(secrets)
    whole = masker.mask(text)
    assert in_pieces(masker, text, cuts) == whole
    assert in_pieces(masker, text, list(range(len(text)))) == whole, "and again, one character at a time"


@given(text=crowded, secrets=st.lists(crowded_secret, min_size=1, max_size=4))
def test_no_secret_is_left(text: str, secrets: list[str]) -> None:
    shown = Masker(secrets).mask(text)
    for secret in secrets:
        if len(secret.strip()) >= MIN_LENGTH:
            assert secret.strip() not in shown
            assert all(line not in shown for line in secret.split("\n") if len(line) >= MIN_LENGTH)


@given(text=crowded, secrets=st.lists(crowded_secret, max_size=4))
def test_lines_stay_lines(text: str, secrets: list[str]) -> None:
    assert Masker(secrets).mask(text).count("\n") == text.count("\n")


@given(secret=wordy_secret, before=st.text(max_size=20), after=st.text(max_size=20), cut=st.integers(0, 80))
def test_any_value_is_masked_in_any_surroundings(secret: str, before: str, after: str, cut: int) -> None:
    value = secret.strip()
    if len(value) < MIN_LENGTH:
        assert Masker([secret]).mask(before + secret + after) == before + secret + after
        return
    masker = Masker([secret])
    shown = in_pieces(masker, before + secret + after, [cut])
    assert MASK in shown
    assert value not in shown


@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=4, max_size=40)
    .map(str.strip)
    .filter(lambda s: len(s) > 3),
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    cut=st.integers(0, 60),
)
def test_base64_is_masked_at_every_alignment(secret: str, before: bytes, after: bytes, cut: int) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + secret.encode() + after).decode()
        shown = in_pieces(Masker([secret]), encoded, [cut])
        inner = encoded[-(-len(before) * 8 // 6) : (len(before) + len(secret.encode())) * 8 // 6]
        assert inner not in shown
        # What stands around it, but for the characters that share bits with it, is no secret and stays.
        assert shown.startswith(encoded[: len(before) * 8 // 6])


@given(text=st.text(alphabet="xyz \n", max_size=80), cuts=st.lists(st.integers(0, 80), max_size=8))
def test_text_without_secrets_is_untouched(text: str, cuts: list[int]) -> None:
    assert in_pieces(Masker(["hunter2", "s3cr3t\nab", "pass"]), text, cuts) == text


def test_nothing_is_held_back_without_need() -> None:
    masker = Masker(["hunter2"])
    assert masker.feed("hello hun") == "hello "
    assert masker.feed("ger\n") == "hunger\n"
    assert masker.feed("the hunter\n") == "the hunter\n", "a complete line begins no secret of one line"
    assert Masker([]).feed("anything") == "anything"


def test_only_lines_that_may_begin_a_secret_of_several_lines_are_held_back() -> None:
    masker = Masker(["ab\nc\nlong line"])
    assert masker.feed("a\n") == "a\n"
    assert masker.feed("tab\n") == "t"
    assert masker.feed("d\n") == "ab\nd\n"
    assert masker.feed("ab\n") + masker.feed("c\n") + masker.feed("long line\n") == "***\n***\n***\n"
    assert masker.mask("only the long line") == "only the ***"


def test_a_value_of_long_lines_holds_no_line_back() -> None:
    masker = Masker(["first line\nsecond line\n"])
    assert masker.feed("first line\n") == "***\n"
    assert masker.feed("second line\r\n") == "***\r\n"


def test_overlapping_and_touching_values_leave_no_remainder() -> None:
    masker = Masker(["abcd", "cdef", "abcdefgh"])
    assert masker.mask("<abcdef> <abcdabcd> <abcdefgh>") == "<***> <***> <***>"


def test_the_longest_value_wins_also_across_pieces() -> None:
    masker = Masker(["abcd", "abcdefgh"])
    assert "".join(map(masker.feed, ["abcd", "efgh", "x"])) + masker.flush() == "***x"


def test_json_and_percent_spelling() -> None:
    secret = 'p"ss/w\\rd\nü+'
    masker = Masker([secret])
    assert masker.mask(json.dumps({"k": secret}, ensure_ascii=False)) == '{"k": "***"}'
    assert masker.mask(json.dumps({"k": secret})) == '{"k": "***"}'
    assert masker.mask(f"https://u:{quote(secret, safe='')}@host") == "https://u:***@host"


def test_carriage_returns_in_a_value_do_not_hide_it() -> None:
    masker = Masker(["ab\r\ncd\r\nef"])
    assert masker.mask("ab\ncd\nef") == "***\n***\n***"
    assert "cd" not in masker.mask("ab\r\ncd\r\nef")


@pytest.mark.parametrize("value", ["", "abc", " abc ", "\n\n\n\n", "    "])
def test_too_short_to_mask_is_said(value: str) -> None:
    masker = Masker()
    assert masker.add(value) is False
    assert masker.mask("abc    abc\n\n\n\n\n") == "abc    abc\n\n\n\n\n"


def test_added_values_count_for_siblings_at_once() -> None:
    masker = Masker()
    other = masker.sibling()
    assert other.feed("token-1 ") == "token-1 "
    assert masker.add("token-1") is True
    assert other.feed("token-1 ") == "*** "
    assert masker.feed("tok") == "", "each stream has its own tail"
    assert other.flush() == ""
    assert masker.flush() == "tok"


def test_a_piece_without_text_changes_nothing() -> None:
    masker = Masker(["abcd"])
    assert [masker.feed(piece) for piece in ("abcd", "", "abcd", "x")] == ["***", "", "", "x"]


def test_preparing_may_be_paused_at_any_time() -> None:
    """Two streams prepare the same values in turns, more come, and a complete text is masked in between."""
    masker = Masker([f"value-{n}" for n in range(5)])
    one, other = masker.settle(), masker.sibling().settle()
    for turn in range(200):
        next(one, None)
        masker.add(f"later-{turn % 50}")
        next(other, None)
        if turn % 20 == 19:
            assert masker.mask(f"value-{turn % 5} later-{turn % 50}") == "*** ***"
    for _ in (*one, *other):
        pass
    texts = [*(f"value-{n}" for n in range(5)), *(f"later-{n}" for n in range(50))]
    assert [masker.mask(text) for text in texts] == ["***"] * 55


def test_json_values_are_masked_throughout() -> None:
    value = {"a": ["x hunter2", 12345678, 1, True, None], "hunter2": {"b": 1.5}}
    masked = Masker(["hunter2", "12345678"]).mask_value(value)
    assert masked == {"a": ["x ***", "***", 1, True, None], "***": {"b": 1.5}}


@pytest.mark.parametrize("value", ["hunter2hunter2", "hunter2hunter2!", "hunter2hunter2!!"])
def test_a_base64_that_stands_alone_leaves_nothing(value: str) -> None:
    """Its last characters too, which would depend on what came next."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert Masker([value]).mask(f"={encode(value.encode()).decode()} ok") == "=*** ok"


def test_a_json_value_without_secrets_is_the_same_object() -> None:
    for value in ({"a": ["x", 1, None], "b": "a\\b\n€"}, ["x"], {"a": "x" * 40_000}):
        assert Masker(["hunter2"]).mask_value(value) is value


def test_only_strings_keys_and_numbers_of_a_json_value_are_masked() -> None:
    masked = Masker(["None", "True", "1.25", "hunter2"]).mask_value([None, True, 1.25, 1, "hunter2"])
    assert masked == [None, True, "***", 1, "***"]


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("it's-so", "echo 'it'\\''s-so'", "echo '***'"),  # two forms: as shells write it, within JSON
        ("€uro'€", "€ '€uro'\\''€'", "€ '***'"),
        ("hunter2", "x" * 40_000 + "hunter2", "x" * 40_000 + "***"),
        ("hunter2", "x" * (16 << 10) + "hunter2", "x" * (16 << 10) + "***"),
        ("hunter2", "x" * ((16 << 10) - 10) + "hunter2", "x" * ((16 << 10) - 10) + "***"),
    ],
    ids=["escaped", "not latin", "far behind", "behind a slice", "between slices"],
)
def test_a_secret_in_a_json_value_is_found_wherever_it_is(secret: str, text: str, shown: str) -> None:
    assert Masker([secret]).mask_value({"a": [text]}) == {"a": [shown]}


def test_a_json_value_with_a_number_of_any_size_is_masked() -> None:
    """orjson refuses integers of more than 64 bits."""
    assert Masker([str(2**70)]).mask_value([2**70, 2**71]) == ["***", 2**71]


def test_a_text_may_have_so_many_occurrences_in_all() -> None:
    masker = Masker(["hunter2", "abcd"]).complete()
    bounded = masker.bounded(3)
    assert bounded.mask("hunter2 abcd") == "*** ***"
    assert bounded.sibling().mask("abcd") == "***"
    with pytest.raises(TooDense):
        bounded.mask("abcd")
    long = masker.bounded(1)
    with pytest.raises(TooDense):
        long.mask("hunter2" + " " * (40 << 10) + "hunter2")
    assert masker.bounded(0).mask("no secret") == "no secret"
    assert masker.mask("abcd " * 9) == "*** " * 9, "the others are not bounded"


def test_the_beginning_of_a_text_is_masked() -> None:
    masker = Masker(["hunter2"])
    assert masker.mask_start("a hunter2 b", 20) == "a *** b"
    assert masker.mask_start("a hun", 5) == "a hun", "it is all there is"
    assert masker.mask_start("a hunter2 b", 5) == "a ", "what the cut leaves of a secret is left out"
    assert masker.mask_start("a hunter2 b", 10) == "a *** "
    assert masker.mask_start("a huge", 5) == "a hug"
    assert masker.mask("hun") == "hun", "nothing of it is left for the next text"


def test_what_it_masks_already() -> None:
    masker = Masker([" token-1\n"])
    assert masker.knows("token-1")
    assert masker.knows("abc"), "too short to be masked"
    assert not masker.knows("token-2")
    assert masker.count == 1
    assert masker.add("token-1")
    assert masker.add("token-2")
    assert masker.count == 2


def test_whether_a_text_ends_with_the_beginning_of_a_secret() -> None:
    masker = Masker(["hunter2"])
    assert [masker.begins(text) for text in ("the hun", "hunger", "hunter2", "")] == [
        True,
        False,
        False,
        False,
    ]


def test_its_size_is_that_of_all_forms() -> None:
    masker = Masker(["it's", "hunter2"]).complete()
    forms = spellings("it's") | spellings("hunter2")
    assert masker.size == sum(map(len, forms))


def test_a_secret_that_begins_where_the_last_output_ended() -> None:
    """It may be longer, and so waits; and is then no part of a mask before it."""
    masker = Masker(["abcd", "abcdefgh"])
    assert [masker.feed(piece) for piece in ("x abcd", "z")] == ["x ", "***z"]
    assert [masker.feed(piece) for piece in ("abcd1", "abcd", "2")] == ["***1", "", "***2"]


def test_empty_lines_of_a_secret_stay_empty() -> None:
    assert Masker(["ab\n\ncd"]).mask("x ab\n\ncd y") == "x ***\n\n*** y"


@pytest.mark.parametrize("second", ["", "line"])
def test_lines_that_are_masked_on_their_own_are_not_held_back(second: str) -> None:
    masker = Masker([f"first line\n{second}\nlast line"])
    assert masker.feed("first line\n") == "***\n"
    assert masker.mask('"first line\\n' + second + '\\nlast line"') == '"***"', "JSON has it in one line"


def test_every_line_of_a_long_secret_is_masked() -> None:
    lines = [f"line-{number:03}-{number * 7919:06}" for number in range(500)]
    masker = Masker(["\n".join(lines)])
    assert {masker.mask(line) for line in lines} == {"***"}


def test_half_of_a_surrogate_pair_in_pieces() -> None:
    masker = Masker(["ab\ud800cd"])
    assert [masker.feed(piece) for piece in ("x ab\ud800", "cd y")] == ["x ", "*** y"]


def test_the_end_of_a_secret_that_may_begin_another() -> None:
    """It is held back, and nothing of it is shown when the text ends there; the next text has a mask of its own."""
    masker = Masker(["abcdefgh", "ghijkl"])
    assert (masker.feed("abcdefgh"), masker.flush()) == ("***", "")
    assert (masker.feed("abcdefgh"), masker.feed("ijkl "), masker.flush()) == ("***", " ", "")
    assert (masker.feed("abcd"), masker.flush()) == ("", "abcd")


@pytest.mark.parametrize(
    ("secret", "printed", "shown"),
    [
        ("it's so", "$'it\\'s so'", "$'***'"),  # bash
        ("it's-so", "'it'\"'\"'s-so'", "'***'"),  # dash
        ("so-it's'", "'so-it'\"'\"'s'\"'\" ok", "'*** ok"),  # dash, of a quote at the end
        ("pass/word", '"pass\\/word"', '"***"'),  # PHP
        ('say "hi"\nand more', '"say \\"hi\\"\\nand more"', '"***"'),
    ],
)
def test_how_programs_quote_a_value(secret: str, printed: str, shown: str) -> None:
    assert Masker([secret]).mask(printed) == shown
