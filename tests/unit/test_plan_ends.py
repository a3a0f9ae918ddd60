"""How attempts start and end: what is told and kept of exit codes, metrics, errors and checkouts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilothouse.engine import step_transitions
from pilothouse.engine.model import Status
from pilothouse.pipelines.spec import AgentSelector, Retry
from pilothouse.wire import entries
from support.planning import Sim, gate, job, sim, started, step
from support.planning_rows import CONNECTION


def ends(run: Sim, type: str) -> list[tuple[Any, ...]]:
    """Of the entries of a type: exit code, error, metrics, reason."""
    keys = ("exit_code", "error", "metrics", "reason")
    return [tuple(body.get(key) for key in keys) for body in run.of(type)]


def test_exit_code_error_and_metrics_are_told_and_kept() -> None:
    run = started(job("j", "a"))
    [attempt] = run.out
    run.end(attempt, Status.FAILED, "exit 3", exit_code=3, metrics={"cpu": "1.5"})
    assert (attempt.exit_code, attempt.error, attempt.reason) == (3, "exit 3", "")
    assert ends(run, entries.ATTEMPT_COMPLETED) == [(3, "exit 3", {"cpu": "1.5"}, None)]
    assert ends(run, entries.STEP_COMPLETED) == [(3, "exit 3", None, "exit 3")]


def test_an_end_without_any_of_them() -> None:
    run = sim(job("j", gate("g", timeout="1m")))
    run.settle()
    run.step("g").deadline = run.now + 1
    run.rows.note(run.step("g"))
    run.advance(run.now + 1)
    run.settle()
    assert ends(run, entries.ATTEMPT_COMPLETED) == [(0, "", {}, None)]
    assert ends(run, entries.STEP_COMPLETED) == [(0, "", None, "")]
    assert run.step("g").status is Status.TIMED_OUT


@pytest.mark.parametrize(("error", "reason"), [("exit 1", "tried again after: exit 1"), ("", "tried again")])
def test_why_a_step_waits_for_its_next_try(error: str, reason: str) -> None:
    run = started(job("j", step("a", retry=Retry(2, "5s"))))
    run.end(run.out[0], Status.FAILED, error)
    assert (run.step("a").reason, run.step("a").current) == (reason, "")


def test_a_failure_may_put_a_checkout_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    doubted: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        step_transitions, "doubt", lambda tx, *given: doubted.append((tx.conn is CONNECTION, *given))
    )
    run = started(job("j", "a"), job("k", "b"), job("l", "c"))
    run.run.checkout = {"archive": "b1"}
    run.rows.note(run.run)
    a, b, c = run.out
    run.end(a, Status.SUCCEEDED)
    run.end(b, Status.TIMED_OUT, "too long")
    assert doubted == []
    run.end(c, Status.FAILED, "it has no files")
    assert doubted == [(True, "p", {"archive": "b1"}, "it has no files")]


def test_what_starts_in_a_paused_run_has_its_time_limits_suspended() -> None:
    run = sim(job("j", "a", timeout="1m"))
    run.settle()
    [attempt] = run.queued
    run.offer(attempt)
    run.pause()
    run.advance(run.now + 1000)
    run.start(attempt)
    [j] = run.run.jobs
    assert (j.held_at, j.deadline) == (run.now, run.now + 60_000)
    run.advance(run.now + 5000)
    run.resume()
    assert (j.held_at, j.deadline) == (0, run.now + 60_000)


def test_what_is_queued_asks_for_an_agent_for_all_that_is_coming() -> None:
    """The agent that begins a job holds its workspace; later steps are its own."""
    run = sim(
        job(
            "j",
            step("a", agent_selector=AgentSelector({"os": "linux"})),
            step("b", agent_selector=AgentSelector({"gpu": "yes"})),
            step("c", agent_selector=AgentSelector({"disk": "big"})),
            "d",
        )
    )
    run.settle()
    asked = []
    while run.queued:
        [attempt] = run.queued
        asked.append(attempt.selector and json.loads(attempt.selector)["matchLabels"])
        run.do(attempt, "ok")
    assert asked == [
        {"os": "linux", "gpu": "yes", "disk": "big"},
        {"gpu": "yes"},
        {"disk": "big"},
        "",
    ]
    assert {body["reason"] for body in run.of(entries.STEP_QUEUED)} == {""}
