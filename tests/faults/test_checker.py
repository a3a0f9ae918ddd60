"""The checker accepts a correct history and reports each kind of damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from support.faults.checker import Journal, lines_by_node
from support.faults.fleet import QUICK, Fleet, dummy, fleet, on, shell, until
from support.faults.story import LOST, Entry, check_story

UNCOUNTED = {"step.progressed", "step.waiting"}
"""Entries whose number is not determined: an agent reports its latest progress, a server why a step waits."""
ALLOWED = {"whole/s": 1, "tried/s": 2, "safe/first": 3, "safe/s": 3, "bad/s": 1}


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    """Journal of a real run with most kinds of events."""
    with fleet(tmp_path_factory.mktemp("checker"), **QUICK) as made:
        agent = made.agent("a").start()
        run_id = made.run("eventful", _eventful(made))
        until(lambda: _open_jobs(made, run_id) == ["safe"], what="the other jobs are over")
        until(lambda: made.logs(run_id, job="safe", step="s"), what="its first line")
        agent.kill9()
        (made.directory / "go").touch()
        agent.start()
        assert made.ended(run_id)["status"] == "failed"
        yield Journal(made.server.data_dir)


def _open_jobs(made: Fleet, run_id: str) -> list[str]:
    return [job["name"] for job in made.show(run_id)["jobs"] if job["status"] in ("pending", "running")]


def _eventful(made: Fleet) -> dict[str, object]:
    mark, go = made.directory / "mark", made.directory / "go"
    failing = f"echo first; test -e {mark} || {{ touch {mark}; exit 3; }}; echo second"
    return on(
        "a",
        {"name": "whole", "steps": [dummy("s", lines=5, outputs={"o": 1, "p": 2}, progress=[50])]},
        {"name": "tried", "steps": [{**shell("s", failing), "retry": {"maxAttempts": 2}}]},
        {
            "name": "safe",
            "onLost": "rerun",
            "steps": [
                shell("first", "echo"),
                shell("s", f"echo a; until [ -e {go} ]; do sleep 0.05; done; echo b"),
            ],
        },
        {"name": "bad", "steps": [shell("s", "exit 1"), shell("never", "echo")]},
    )


@pytest.fixture(scope="module")
def run_id(journal: Journal) -> str:
    (stream,) = {entry.stream for entry in journal.entries if entry.stream.startswith("run/")}
    return stream.removeprefix("run/")


@pytest.fixture(scope="module")
def history(journal: Journal, run_id: str) -> list[Entry]:
    return journal.of_run(run_id)


def test_a_correct_history_is_accepted(journal: Journal, run_id: str, history: list[Entry]) -> None:
    journal.check()
    journal.check_run(run_id, lines_by_node(history), ALLOWED)
    assert {entry.type for entry in history} >= {
        "run.created", "run.started", "run.completed", "job.started", "job.restarted", "job.completed",
        "step.queued", "step.started", "step.logged", "step.progressed", "step.output", "step.completed",
        "attempt.completed",
    }  # fmt: skip


def noticed(entries: list[Entry], like: list[Entry]) -> bool:
    """Whether the checker rejects this history for the lines of the other."""
    try:
        check_story(entries, ALLOWED)
    except AssertionError:
        return True
    return lines_by_node(entries) != lines_by_node(like)


def test_each_missing_entry_is_noticed(history: list[Entry]) -> None:
    for at, entry in enumerate(history):
        # The outputs of a step are in its last entry, too; a single one is known to who has sent it (Witness).
        if entry.type not in UNCOUNTED | {"step.output"}:
            assert noticed(history[:at] + history[at + 1 :], history), f"{entry} is not missed"


def test_each_duplicate_entry_is_noticed(history: list[Entry]) -> None:
    for at, entry in enumerate(history):
        if entry.type not in UNCOUNTED:
            assert noticed(history[: at + 1] + history[at:], history), f"{entry} twice is not noticed"
            assert noticed([*history, entry], history), f"{entry} once more in the end is not noticed"


def test_entries_out_of_order_are_noticed(history: list[Entry]) -> None:
    """Two consecutive entries of one attempt, swapped."""
    changed = 0
    for subject in {entry.body.get("step_run_id", "") for entry in history} - {""}:
        places = [
            at
            for at, entry in enumerate(history)
            if entry.body.get("step_run_id") == subject and entry.type not in UNCOUNTED | {"step.output"}
        ]
        for first, second in pairwise(places):
            if history[second].body.get("error", "").startswith(LOST):
                continue  # output of a lost attempt may arrive after it was marked lost
            swapped = list(history)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            assert noticed(swapped, history), f"{history[first]} after {history[second]} is not noticed"
            changed += 1
    assert changed > 10


LINES: dict[str, Callable[[list[str]], list[str]]] = {
    "one lost": lambda lines: lines[:2] + lines[3:],
    "one doubled": lambda lines: [*lines[:2], *lines[1:]],
    "two changed about": lambda lines: [lines[1], lines[0], *lines[2:]],
    "one altered": lambda lines: ["?", *lines[1:]],
    "one torn": lambda lines: [lines[0][:2], lines[0][2:], *lines[1:]],
}


@pytest.mark.parametrize("how", LINES)
def test_damaged_lines_are_noticed(history: list[Entry], how: str) -> None:
    at = next(at for at, e in enumerate(history) if e.type == "step.logged" and len(e.body["lines"]) > 4)
    body = {**history[at].body, "lines": LINES[how](history[at].body["lines"])}
    assert noticed([*history[:at], replace(history[at], body=body), *history[at + 1 :]], history)


def test_holes_and_doubles_of_the_journal_are_noticed(journal: Journal) -> None:
    whole = list(journal.entries)
    for damaged in (whole[1:], whole[:-1], whole[:5] + whole[6:], [*whole[:5], *whole[4:]]):
        journal.entries = damaged
        with pytest.raises(AssertionError):
            journal.check()
    journal.entries = whole
    journal.check()


@pytest.mark.parametrize("node", ["whole/s", "tried/s", "safe/s", "bad/s"])
def test_a_step_that_ran_too_often_is_noticed(history: list[Entry], node: str) -> None:
    starts = sum(entry.type == "step.started" and entry.node == node for entry in history)
    with pytest.raises(AssertionError, match="was started"):
        check_story(history, {node: starts - 1})


def test_a_run_that_is_stuck_is_noticed(history: list[Entry]) -> None:
    for end in range(1, len(history)):
        with pytest.raises(AssertionError):
            check_story(history[:end])


def test_a_second_start_under_one_id_is_noticed(history: list[Entry]) -> None:
    """Also if it is recorded as queued again."""
    at = next(at for at, e in enumerate(history) if e.type == "attempt.completed" and e.node == "tried/s")
    queued = next(e for e in history if e.type == "step.queued" and e.node == "tried/s")
    again = replace(queued, body={**queued.body, "attempt": 2})
    assert noticed([*history[: at + 1], again, *history[at + 1 :]], history)


def test_progress_that_falls_is_noticed(history: list[Entry]) -> None:
    at = next(at for at, entry in enumerate(history) if entry.type == "step.progressed")
    less = replace(history[at], body={**history[at].body, "percent": 10})
    with pytest.raises(AssertionError, match="progress falls"):
        check_story([*history[: at + 1], less, *history[at + 1 :]])
