"""A secret cut in two by an agent that sends unfinished lines."""

from __future__ import annotations

from pilothouse.engine.intake.joining import Joiner
from pilothouse.engine.intake.lines import LogLines
from pilothouse.wire.masking import Masker

MASKER = Masker(["hunter2-secret"])


def batch(seq: int, *lines: str, step: str = "s", open_end: bool = True) -> LogLines:
    return LogLines(f"b{seq}", seq, step, list(lines), open_end=open_end)


def stored(*batches: LogLines, masker: Masker | None = MASKER) -> list[list[str]]:
    joiner = Joiner()
    out = [ready for one in batches for ready in joiner.take(one, masker)] + joiner.rest()
    assert [b.seq for b in out] == [b.seq for b in batches]
    return [b.lines for b in out]


def test_halves_of_a_secret_become_one_line() -> None:
    assert stored(batch(1, "x", "the hunter2-"), batch(2, "secret!", "y")) == [
        ["x"],
        ["the hunter2-secret!", "y"],
    ]


def test_lines_that_only_look_like_a_beginning_stay_lines_of_their_own() -> None:
    assert stored(batch(1, "the hunter2-"), batch(2, "gatherer")) == [["the hunter2-"], ["gatherer"]]


def test_a_finished_line_is_not_joined() -> None:
    first = batch(1, "the hunter2-", open_end=False)
    assert Joiner().take(first, MASKER) == [first]


def test_another_step_or_the_end_releases_what_waited() -> None:
    assert stored(batch(1, "hunter2-"), batch(2, "secret", step="other")) == [["hunter2-"], ["secret"]]
    assert stored(batch(1, "hunter2-")) == [["hunter2-"]]


def test_without_secrets_nothing_waits() -> None:
    first = batch(1, "hunter2-")
    assert Joiner().take(first, None) == [first]


def test_three_pieces() -> None:
    pieces = batch(1, "a hunter"), batch(2, "2-sec"), batch(3, "ret!", "b")
    assert stored(*pieces) == [[], [], ["a hunter2-secret!", "b"]]
    assert stored(batch(1, "hunter"), batch(2, "2-sec"), batch(3, "tor")) == [["hunter"], ["2-sec"], ["tor"]]
