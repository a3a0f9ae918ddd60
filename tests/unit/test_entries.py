"""Entries of the journal: what is left of one without its first lines, what it costs, and who wants it."""

from __future__ import annotations

import ctypes
from typing import Any

import orjson
import pytest

from pilothouse.journal import Entry, Selection, kept_json
from pilothouse.journal.model import COSTLY, Frame

LINES = ["a", "b", "c", "d", "e"]


def logged(**more: Any) -> Entry:
    body = {"step": "s", "first": 11, "lines": LINES, **more}
    return Entry(7, "run/1", "step/s", "step.logged", 42, "project/p", orjson.dumps(body))


@pytest.mark.parametrize("k", range(1, 6))
def test_a_tail_has_the_lines_from_there_on_and_says_which_is_the_first(k: int) -> None:
    tail = logged(stderr=[0, 2, 4], levels={"1": "warn", "2": "error", "4": "info"}).tail(k)
    assert tail.body == {
        "step": "s",
        "first": 11 + k,
        "lines": LINES[k:],
        "stderr": [at - k for at in (0, 2, 4) if at >= k],
        "levels": {str(at - k): level for at, level in ((1, "warn"), (2, "error"), (4, "info")) if at >= k},
    }
    assert orjson.loads(tail.data) == tail.body
    assert tail.base == k


def test_a_tail_is_the_same_entry_otherwise() -> None:
    entry, tail = logged(), logged().tail(2)
    for name in ("offset", "stream", "subject", "type", "at", "scope"):
        assert getattr(tail, name) == getattr(entry, name), name
    assert "stderr" not in tail.body
    assert entry.body["lines"] == LINES, "what others read is not changed"


def test_a_tail_of_nothing_is_the_entry_itself() -> None:
    entry = logged()
    assert entry.tail(0) is entry
    cut = entry.tail(2)
    assert cut.tail(2) is cut, "a cursor counts from the beginning of the whole entry"
    assert cut.tail(1) is cut
    assert cut.tail(3).body["lines"] == ["d", "e"]
    assert cut.tail(3).body["first"] == 14


def test_an_entry_without_lines_has_no_tail() -> None:
    entry = Entry(7, "run/1", "", "run.started", 42, "", b'{"run_id": "1"}')
    assert entry.tail(3) is entry


def test_short_lines_cost_more_than_their_bytes() -> None:
    one, many = Entry(1, "s", "", "t", 0, "", b'["aaaa"]'), Entry(1, "s", "", "t", 0, "", b'["a","b"]')
    assert one.size == 6 * 8 + 600
    assert many.size == 6 * 9 + 400 + 600


def test_a_body_that_is_known_is_not_decoded_again() -> None:
    body = {"a": 1}
    assert Entry(1, "s", "", "t", 0, "", b"not read", body).body is body
    entry = Entry(1, "s", "", "t", 0, "", b'{"a": 1}')
    assert entry.body is entry.body


@pytest.mark.parametrize("length", [500, 2000, 20_000, 100_000])
def test_json_that_is_kept_has_no_more_memory_than_it_needs(length: int) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc_usable_size.argtypes, libc.malloc_usable_size.restype = [ctypes.c_void_p], ctypes.c_size_t
    value = {"lines": ["x" * length]}
    kept = kept_json(value)
    assert kept == orjson.dumps(value)
    assert libc.malloc_usable_size(id(kept)) < len(kept) * 1.1 + 4096  # a large one has whole pages


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(), True),
        (Selection(subject="step/s"), True),
        (Selection(subject="step/t"), False),
        (Selection(subject=""), False),
        (Selection(type="step.logged"), True),
        (Selection(type="step.*"), True),
        (Selection(type="STEP.*"), False),
        (Selection(type="step"), False),
        (Selection(subject="step/s", type="run.*"), False),
        (Selection(subject="step/s", type="step.?ogged"), True),
        (Selection(subject="step/t", type="step.*"), False),
    ],
)
def test_which_entries_a_selection_wants(selection: Selection, wanted: bool) -> None:
    assert selection.wants(logged()) is wanted


class Plain:
    """A format that shows each entry as it is."""

    key = "plain"

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        return (Frame(entry.data, 1),)

    def ends(self, entry: Entry) -> bool:
        return False


class Other(Plain):
    key = "other"


def test_a_large_entry_costs_much_until_it_has_been_encoded() -> None:
    assert not Entry(1, "s", "", "t", 0, "", b"x" * (COSTLY - 1)).costly(Plain())
    entry = Entry(1, "s", "", "t", 0, "", b"x" * COSTLY)
    assert entry.costly(Plain())
    entry.frames(Plain())
    assert (entry.costly(Plain()), entry.costly(Other())) == (False, True)
