"""Which lines of a log are asked for, and what the server is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.logselect import Asked, beginning, pattern, select, several_jobs

NOW = datetime(2026, 1, 10, 14, 0, tzinfo=UTC)


def attempt(id: str, number: int, *, earlier: bool = False) -> dict[str, Any]:
    return {"step_run_id": id, "number": number, "earlier_run": earlier}


def step(name: str, status: str, *attempts: dict[str, Any], allowed: bool = False) -> dict[str, Any]:
    return {"name": name, "status": status, "attempts": list(attempts), "continue_on_error": allowed}


VIEW = {
    "id": "r1",
    "jobs": [
        {
            "name": "a",
            "steps": [
                step("one", "failed", attempt("a1", 1), attempt("a2", 2)),
                step("two", "succeeded", attempt("old", 1, earlier=True), attempt("a3", 1)),
            ],
        },
        {"name": "b", "steps": [step("one", "failed", attempt("b1", 1), allowed=True), step("x", "pending")]},
    ],
}


@pytest.mark.parametrize(
    ("asked", "following", "narrowing", "exact", "several", "wanted"),
    [
        (Asked(), False, {}, True, True, {"a/one", "a/two", "b/one", "b/x"}),
        (Asked(job="a"), False, {"job": "a"}, True, True, {"a/one", "a/two"}),
        (Asked(step="a/one"), False, {"job": "a", "step": "one"}, True, False, {"a/one"}),
        (Asked(job="a", step="one"), False, {"job": "a", "step": "one"}, True, False, {"a/one"}),
        (Asked(step="two"), False, {"job": "a", "step": "two"}, True, False, {"a/two"}),
        (Asked(step="one"), False, {"step_runs": ["a1", "a2", "b1"]}, True, True, {"a/one", "b/one"}),
        (Asked(step="one"), True, {}, False, True, {"a/one", "b/one"}),
        (Asked(failed=True), False, {"job": "a", "step": "one"}, True, False, {"a/one"}),
        (Asked(failed=True, job="b"), False, {"job": "b", "step": "one"}, True, False, {"b/one"}),
        (Asked(attempt=2), False, {"step_runs": ["a2"]}, True, True, {"a/one", "a/two", "b/one", "b/x"}),
        (Asked(attempt=2, job="a"), True, {"job": "a"}, False, True, {"a/one", "a/two"}),
    ],
)
def test_what_is_selected(
    asked: Asked, following: bool, narrowing: dict[str, Any], exact: bool, several: bool, wanted: set[str]
) -> None:
    selected = select(VIEW, asked, following=following)
    assert (selected.narrowing, selected.exact, selected.several) == (narrowing, exact, several)
    number = asked.attempt or 1
    pairs = [("a", "one"), ("a", "two"), ("b", "one"), ("b", "x")]
    there = {f"{j}/{s}" for j, s in pairs if selected.wants({"job": j, "step": s, "attempt": number})}
    assert there == wanted
    if asked.attempt:
        assert not selected.wants({"job": "a", "step": "one", "attempt": number + 1})


def test_many_attempts_are_not_named() -> None:
    steps = [step(f"s{n}", "failed", attempt(f"i{n}", 1)) for n in range(60)]
    selected = select(
        {"id": "r", "jobs": [{"name": "j", "steps": steps}]}, Asked(failed=True), following=False
    )
    assert (selected.narrowing, selected.exact) == ({}, True), "all that there is"
    view = {"id": "r", "jobs": [{"name": "j", "steps": [*steps, step("good", "succeeded")]}]}
    selected = select(view, Asked(failed=True), following=False)
    assert (selected.narrowing, selected.exact) == ({}, False)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(step="three"), "step 'three' (there are: a/one, a/two, b/one, b/x)"),
        (Asked(job="c"), "job 'c'"),
        (Asked(job="b", step="two"), "step 'two' of job 'b'"),
        (Asked(step="b/two"), "step 'b/two'"),
        (Asked(attempt=3), "no attempt 3; the highest is 2"),
        (Asked(attempt=2, job="b"), "the highest is 1"),
    ],
)
def test_what_is_not_there(asked: Asked, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(VIEW, asked, following=False)
    assert said in str(caught.value)


def test_nothing_failed() -> None:
    with pytest.raises(CliError, match="no step of run r1 has failed") as caught:
        select(VIEW, Asked(failed=True, step="two"), following=False)
    assert caught.value.exit_code == 1


def test_a_name_in_several_jobs_is_reported() -> None:
    assert several_jobs(VIEW, Asked(step="one")) == ["a", "b"]
    assert several_jobs(VIEW, Asked(step="one", job="a")) == []
    assert several_jobs(VIEW, Asked(step="two")) == []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", ""),
        ("10m", "2026-01-10T13:50:00.000Z"),
        ("1h30m", "2026-01-10T12:30:00.000Z"),
        ("2026-01-10T15:00:00+02:00", "2026-01-10T13:00:00.000Z"),
        ("2026-01-10T13:00:00Z", "2026-01-10T13:00:00.000Z"),
    ],
)
def test_since(text: str, at: str) -> None:
    assert beginning(text, NOW) == at


@pytest.mark.parametrize("text", ["yesterday", "10x", "m", "2026-13-01T00:00:00Z", "999999999d", "10"])
def test_since_that_is_no_time(text: str) -> None:
    with pytest.raises(UsageError):
        beginning(text, NOW)


def test_a_pattern() -> None:
    assert pattern("") is None
    found = pattern("err(or)?")
    assert found is not None
    assert found.search("an error")
    with pytest.raises(UsageError, match="not a valid regular expression"):
        pattern("(")
