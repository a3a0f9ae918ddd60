"""A reader and a window, case by case: how much is taken, from where, what is kept, what is encoded before."""

from __future__ import annotations

import pytest

from pilothouse.journal import Cursor, CursorError, CursorExpired, CursorInvalid, Entry, Selection
from pilothouse.journal.model import COSTLY, Frame
from pilothouse.journal.reader import BATCH_BYTES, Reader
from pilothouse.journal.window import Window


class Lines:
    """A format with a message for each line; of an entry without lines it shows the data twice."""

    key = "lines"

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        if entry.data.startswith(b"{"):
            lines = entry.body["lines"]
            return tuple(Frame(line.encode(), entry.base + at) for at, line in enumerate(lines, 1))
        return Frame(entry.data, 1), Frame(entry.data, 2)

    def ends(self, entry: Entry) -> bool:
        return entry.type == "end"


LINES = b'{"first": 1, "lines": ["a", "b", "c"]}'


def made(
    offset: int, data: bytes = LINES, stream: str = "run/a", scope: str = "seen", type: str = "t"
) -> Entry:
    return Entry(offset, stream, "", type, 0, scope, data)


def reading(
    *entries: Entry, start: Cursor = Cursor(1), selection: Selection = Selection("run/a")
) -> tuple[Reader, Window]:
    """A reader of a window with these entries, from offset 1 on."""
    window = Window(1)
    if entries:
        window.extend(list(entries))
    return Reader(window, selection, Lines(), "seen".__eq__, start), window


def large(offset: int, size: int = COSTLY, stream: str = "run/a", scope: str = "seen") -> Entry:
    return made(offset, b"[" + b" " * (size - 2) + b"]", stream, scope)


def test_a_budget_ends_with_its_last_byte() -> None:
    entries = [made(offset) for offset in range(1, 5)]
    reader, _ = reading(*entries)
    assert (reader.take(3), reader.position) == ([b"a", b"b", b"c"], Cursor(2))
    assert (len(reader.take(4)), reader.position) == (6, Cursor(4)), "a byte is left for the next entry"
    assert not reader.live
    assert reader.take(0) == []
    assert (len(reader.take()), reader.take(), reader.live) == (3, [], True)


def test_parts_that_were_delivered_are_those_of_the_cursors_entry_only() -> None:
    """The entry at the cursor may be of another stream, or not be seen; the next one has all its parts."""
    hidden = [made(1, scope="hidden"), made(2)]
    other = [made(1, stream="run/b"), made(2)]
    for entries in (hidden, other):
        reader, _ = reading(*entries, start=Cursor(1, 2))
        assert reader.take() == [b"a", b"b", b"c"]
        reader, _ = reading(*entries, start=Cursor(2, 2))
        assert reader.take() == [b"c"]


def test_a_cursor_in_an_entry_without_lines() -> None:
    for k, expected in ((0, [b"[1]", b"[1]"]), (1, [b"[1]"]), (2, []), (9, [])):
        reader, _ = reading(made(1, b"[1]"), start=Cursor(1, k))
        assert (reader.take(), reader.position) == (expected, Cursor(2))


def test_a_cursor_within_the_next_entry_that_is_published() -> None:
    reader, window = reading(start=Cursor(1, 1))
    assert (reader.take(), reader.live) == ([], True)
    window.extend([made(1)])
    reader.published(1)
    assert (reader.take(), reader.position) == ([b"b", b"c"], Cursor(2))


def test_where_a_reader_is_after_a_page() -> None:
    page = [made(3), made(4)]
    for more, head, start, expected in (
        (True, 9, Cursor(3), Cursor(5)),
        (False, 9, Cursor(3), Cursor(9)),
        (False, 4, Cursor(3), Cursor(5)),
    ):
        reader, _ = reading(start=start)
        assert reader.accept(page, more, head) == [b"a", b"b", b"c"] * 2
        assert (reader.position, reader.ended, reader.live) == (expected, False, False)
    reader, _ = reading(start=Cursor(3))
    assert reader.accept([made(3), made(4, type="end"), made(5)], False, 9) == [b"a", b"b", b"c"] * 2
    assert (reader.position, reader.ended) == (Cursor(5), True)
    assert reader.accept([], False, 9) == []
    assert reader.position == Cursor(5), "after its end it stays where it is"


def test_a_live_reader_skips_what_is_not_its_own() -> None:
    reader, window = reading(made(1))
    reader.take()
    reader.take()
    window.extend([made(2, stream="run/b"), made(3)])
    reader.published(3)
    assert (reader.position, reader.live) == (Cursor(3), False)
    window.extend([made(4)])
    reader.published(4)
    assert reader.position == Cursor(3), "what has been published since is not skipped"


def kept(window: Window, *streams: str) -> list[list[int]]:
    """The offsets of all entries, and of those of each stream."""
    return [[entry.offset for entry in window.since(stream, 0, 9999)] for stream in (None, *streams)]


def test_a_window_is_full_to_the_byte() -> None:
    size = made(1).size
    window = Window(1, max_bytes=2 * size)
    window.extend([made(1)])
    window.extend([made(2, stream="run/b")])
    assert kept(window, "run/a", "run/b") == [[1, 2], [1], [2]]
    window.extend([made(3, stream="run/b")])
    assert (window.start, window.head, kept(window, "run/a", "run/b")) == (2, 4, [[2, 3], [], [2, 3]])
    window.extend([made(4, LINES + b" ")])
    assert (window.start, kept(window, "run/a", "run/b")) == (4, [[4], [4], []])
    window.extend([made(5, b" " * 3000)])
    assert (window.start, window.head, kept(window, "run/a")) == (6, 6, [[], []]), "it is too large alone"


def test_the_bytes_of_a_window_that_was_cleared_count_no_more() -> None:
    window = Window(1, max_bytes=2 * made(1).size)
    window.extend([made(1), made(2)])
    window.extend([made(5), made(6)])
    assert (window.start, kept(window)) == (5, [[5, 6]])
    window.extend([made(7)])
    assert (window.start, kept(window)) == (6, [[6, 7]])


def test_a_window_that_has_too_many_entries_forgets_64_more() -> None:
    """And for each stream as many as it had among them."""
    window = Window(1, max_entries=100)
    window.extend([made(offset, stream=f"run/{offset % 2}") for offset in range(1, 101)])
    assert (window.start, len(kept(window)[0])) == (1, 100)
    window.extend([made(101, stream="run/1")])
    left = list(range(66, 102))
    assert window.start == 66
    assert kept(window, "run/0", "run/1") == [left, left[::2], left[1::2]]


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        ("1.0", CursorInvalid, "a cursor has the form <epoch>.<offset>.<k>, as given out by a stream"),
        (
            "ffffffff.1.0",
            CursorExpired,
            "this cursor belongs to another epoch of the journal; start again",
        ),
    ],
)
def test_a_cursor_that_is_refused_says_why(text: str, error: type[CursorError], why: str) -> None:
    with pytest.raises(error) as caught:
        Cursor.parse(text, "0a1b2c3d")
    assert str(caught.value) == why


def test_what_is_better_encoded_before_is_what_comes_next() -> None:
    entries = [large(1), large(2, stream="run/b"), large(3, scope="hidden"), large(4), large(5)]
    reader, window = reading(*entries)
    assert reader.costly(None) == [entries[0]], "what may not be seen takes its part of the budget, too"
    entries[0].frames(Lines())
    assert reader.costly(None) == [], "it is encoded"
    reader.position = Cursor(2)
    assert reader.costly(None) == [entries[3]]
    reader.position = Cursor(4)
    assert reader.costly(None) == [entries[3], entries[4]]
    reader.ended = True
    assert reader.costly(None) == []
    reader.ended = False
    window.skip(6)
    assert reader.behind
    assert reader.costly(None) == []


@pytest.mark.parametrize(
    ("first", "expected"), [(BATCH_BYTES, 1), (COSTLY, 2), (COSTLY - 1, 2), (COSTLY - 2, 2)]
)
def test_only_what_is_taken_at_once_is_encoded_before(first: int, expected: int) -> None:
    """As long as a byte of the budget is left, there is an entry more."""
    entries = [large(1, first), *(large(offset) for offset in range(2, 6))]
    reader, _ = reading(*entries)
    costly = [entry for entry in entries if len(entry.data) >= COSTLY]
    assert reader.costly(None) == costly[:expected]


def test_of_a_page_everything_large_is_encoded_before() -> None:
    page = [large(offset) for offset in range(1, 9)]
    other = [large(9, scope="hidden"), made(10, b"[1]")]
    reader, _ = reading(selection=Selection("run/a", type="t"))
    assert reader.costly([*page, *other, made(11, b"[" + b" " * COSTLY + b"]", type="u")]) == page
    assert reader.costly([]) == []
